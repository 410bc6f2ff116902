"""Size and shape of pictures."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from data_pipelines.filters import Filter
from data_pipelines.sample import Sample
from vlp.config.bounds import AtLeastZero, Count, Whole
from vlp.pictures import Limits

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class PictureFilter(Filter):
    """Which pictures are kept, and whether they are scaled down."""

    always_recorded: ClassVar[bool] = True

    min_side: Whole = 0
    """fewest pixels of the shorter side"""
    max_aspect: AtLeastZero = 0.0
    """longer side over shorter side at most; 0: any shape"""
    most_pixels: Count = 64_000_000
    """pictures that claim more pixels than this are not even decoded"""
    shrink: Whole = 0
    """scale pictures down until the shorter side has this many pixels (WebP, quality 90); 0: keep the files"""

    def limits(self) -> Limits:
        """The most pixels that are decoded."""
        return Limits(most_pixels=self.most_pixels)

    def look(self, sample: Sample, picture: Image) -> Sample | str:
        """The sample, its picture scaled down where that is asked for; or why the picture is unfit."""
        shorter, longer = sorted(picture.size)
        if shorter < self.min_side:
            return "picture too small"
        if self.max_aspect and longer > self.max_aspect * shorter:
            return "picture too long"
        if not self.shrink or shorter <= self.shrink:
            return sample
        scale = self.shrink / shorter
        file = io.BytesIO()
        picture.resize((round(picture.width * scale), round(picture.height * scale))).save(file, "WEBP", quality=90)
        return replace(sample, image=file.getvalue(), image_format="webp")
