"""A model's embeddings of shards: made, stored, read."""
