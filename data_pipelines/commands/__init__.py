"""`vlp shards ...`: build, verify, show, stats, reshard."""
