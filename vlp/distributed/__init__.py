"""Worlds of ranks, and the contrastive losses sharded over them; the only place that touches process groups."""
