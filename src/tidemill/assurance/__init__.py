"""Proof on the user's own model: a package keeps its word (checks), and the modes agree (verify)."""
