"""Evaluation of models, and search with them."""
