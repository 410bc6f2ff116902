"""One module per subject; `python -m benchmarks.NAME --json OUT`."""
