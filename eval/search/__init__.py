"""Galleries of pictures, and searching them."""
