"""What of the test the training set has, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def sentences(contamination: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(split, what of it the training set has, in a sentence)."""
    rule = contamination["rule"]
    for split, about in contamination["splits"].items():
        how = f"{about['by_hash']:,} by hash"
        if about["by_cosine"] is not None:
            how += f", {about['by_cosine']:,} by a cosine of {rule['cosine']:g} and more"
        yield (
            split,
            f"{about['pictures']:,} of {about['samples']:,} pictures ({how}) and {about['captions']:,} of "
            f"{about['of_captions']:,} captions are in {contamination['against']['spec']} too",
        )
