"""What makes a sample unfit, in the words under which it is counted."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace

from data_pipelines.sample import Sample


@dataclass(frozen=True)
class Filters:
    """Which samples are kept. A sample that is not is counted under the reason that `reason` gives."""

    languages: tuple[str, ...] = ()
    """captions to keep, in this order; none named: all of them"""
    min_chars: int = 1
    """fewest characters of the first caption"""
    max_chars: int = 0
    """most characters of the first caption; 0: any number"""
    min_side: int = 0
    """fewest pixels of the shorter side"""
    max_aspect: float = 0.0
    """longer side over shorter side at most; 0: any shape"""
    most_pixels: int = 64_000_000
    """pictures that claim more pixels than this are not even decoded"""
    shrink: int = 0
    """scale pictures down until the shorter side has this many pixels (WebP, quality 90); 0: keep the files"""

    def apply(self, sample: Sample) -> Sample | str:
        """The sample as it goes into the shard, or the reason why it does not."""
        if self.languages:
            sample = replace(sample, captions={c: sample.captions[c] for c in self.languages if c in sample.captions})
        text = sample.text.strip()
        if not text:
            return "missing caption"
        if len(text) < self.min_chars:
            return "caption too short"
        if self.max_chars and len(text) > self.max_chars:
            return "caption too long"
        return self._picture(sample)

    def _picture(self, sample: Sample) -> Sample | str:
        from data_pipelines import decode

        try:
            picture = decode.decode(sample.image, decode.Limits(most_pixels=self.most_pixels))
        except decode.Refused as refusal:
            return str(refusal)
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
