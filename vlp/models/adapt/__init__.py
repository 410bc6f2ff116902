"""What a run does to towers that have learned already: lock, unlock, patch dropout, low-rank adapters."""
