"""Samples that repeat an earlier one; writing/repeats.py remembers which were kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from data_pipelines.filters import Filter
from data_pipelines.picture_hash import fingerprint_of
from data_pipelines.sample import Sample
from data_pipelines.writing.repeats import Traits, caption_trait

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class DuplicateFilter(Filter):
    """Whether the first alone is kept of samples that repeat each other."""

    drop_duplicate_captions: bool = False
    """keep only the first sample of those whose first captions say the same (case, width, spacing and stops aside)"""
    drop_duplicate_pictures: bool = False
    """keep only the first of pictures that look the same (difference hash and mean colour), whatever size or format"""

    @property
    def looks_for_repeats(self) -> bool:
        """Whether either is asked for."""
        return self.drop_duplicate_captions or self.drop_duplicate_pictures

    def traits(self, sample: Sample, picture: Image) -> Traits | None:
        """The caption's number and the picture's fingerprint, as far as they are asked for."""
        if not self.looks_for_repeats:
            return None
        caption = caption_trait(sample.text) if self.drop_duplicate_captions else None
        return Traits(caption, fingerprint_of(picture) if self.drop_duplicate_pictures else None)
