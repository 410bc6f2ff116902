"""Image towers, one a file."""
