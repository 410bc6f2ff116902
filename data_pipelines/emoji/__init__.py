"""The emoji corpus: pinned packages -> drawings -> captions -> splits, everything `sources/emoji.py` is made of."""
