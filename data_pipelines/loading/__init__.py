"""The order of batches as arithmetic, and the processes that make them."""
