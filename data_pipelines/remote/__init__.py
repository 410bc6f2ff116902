"""Bytes of object stores: asked for again where that may help, checked, kept on the local disk if wanted."""
