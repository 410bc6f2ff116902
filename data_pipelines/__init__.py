"""Sources to shards, shards to batches, and the bundled corpus."""
