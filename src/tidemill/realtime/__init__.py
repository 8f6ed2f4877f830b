"""Answers requests as they arrive, each inside its deadline."""
