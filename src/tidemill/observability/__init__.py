"""What a running process tells of itself: counters and logs."""
