"""What a model is worth, and finding pictures with it."""
