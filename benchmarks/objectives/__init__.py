"""Which objectives, samplers and teachers pay: `python -m benchmarks.objectives`."""
