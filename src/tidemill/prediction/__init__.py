"""The one prediction path: intake → validate → transform → run → transform → derive → seal."""
