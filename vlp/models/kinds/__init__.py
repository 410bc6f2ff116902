"""Ways to put two towers together, one a file."""
