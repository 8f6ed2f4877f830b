"""Other servers on the same model and the same requests, each in an environment of its own."""
