"""Pure metric functions, each beside a slow reference."""
