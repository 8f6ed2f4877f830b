"""Which model versions a process serves, and how that changes while it serves."""
