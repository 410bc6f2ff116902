"""The tile engine that the objectives run on: pure tensors, no process groups."""
