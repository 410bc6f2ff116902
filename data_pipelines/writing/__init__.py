"""Tars and the folders they fill, whole or not at all."""
