"""What a model package is: its manifest, signature, files and samples. Nothing here runs a model."""
