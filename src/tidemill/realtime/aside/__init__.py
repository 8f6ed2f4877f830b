"""Large bodies are read in a process beside the server, so that nobody waits for them but those who sent them."""
