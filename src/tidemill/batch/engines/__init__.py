"""Engines: where shards are scored. Each calls `score_shard` and nothing else of the work."""
