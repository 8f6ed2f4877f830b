"""Worker processes that answer chunks: each of them can be killed, and what it was at is asked again without it."""
