"""vlp: CLIP-style vision-language pretraining, trustworthy evaluation, and retrieval."""

__version__ = "0.1.0"
