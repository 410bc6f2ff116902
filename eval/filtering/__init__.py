"""Which samples of a shard set stay: rules over stored embeddings, applied one after the other."""
