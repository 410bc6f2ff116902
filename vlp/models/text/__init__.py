"""Text towers, one a file."""
