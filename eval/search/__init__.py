"""Galleries of pictures, and what is found in them."""
