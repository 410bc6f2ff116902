"""What makes a sample unfit, in the words under which it is counted."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from data_pipelines.filters.duplicates import Traits, caption_trait
from data_pipelines.filters.picture_hash import Fingerprint, fingerprint_of
from data_pipelines.filters.scripts import SCRIPTS, share
from data_pipelines.sample import Sample
from vlp.config import did_you_mean
from vlp.errors import UserError
from vlp.pictures import Limits, Refused, decode

LATER = ("scripts", "script_share", "drop_duplicate_captions", "drop_duplicate_pictures")


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

    scripts: tuple[str, ...] = ()
    """scripts that captions may be written in, such as latin, or han kana for Japanese; none named: any"""
    script_share: float = 0.5
    """least share of a caption's letters that are of the named scripts; captions with less are left out"""
    drop_duplicate_captions: bool = False
    """keep only the first sample of those whose first captions say the same (case, width, spacing and stops aside)"""
    drop_duplicate_pictures: bool = False
    """keep only the first of pictures that look the same (difference hash and mean colour), whatever size or format"""

    def __post_init__(self) -> None:
        """Raises UserError for a script that is not known."""
        for name in self.scripts:
            if name not in SCRIPTS:
                near = did_you_mean(name, list(SCRIPTS))
                raise UserError(f'no script is called "{name}"{near}; known: {", ".join(SCRIPTS)}')

    @property
    def told(self) -> dict[str, Any]:
        """The fields as a manifest tells them: those of LATER only where they are not at their default.

        So a folder that was built before there were such filters is still known as finished.
        """
        return {k: v for k, v in asdict(self).items() if k not in LATER or v != Filters.__dataclass_fields__[k].default}

    def apply(self, sample: Sample) -> Sample | str:
        """The sample as it goes into the shard, or the reason why it does not."""
        return self.judge(sample)[0]

    def judge(self, sample: Sample) -> tuple[Sample | str, Traits]:
        """What `apply` says, and by what a repetition of the sample is recognised."""
        fate = self._captions(sample)
        if isinstance(fate, str):
            return fate, Traits()
        caption = caption_trait(fate.text) if self.drop_duplicate_captions else None
        kept, picture = self._picture(fate)
        return kept, Traits(caption, picture)

    def _captions(self, sample: Sample) -> Sample | str:
        if self.languages:
            named = {code: _said(sample, code) for code in self.languages if code in sample.captions}
            sample = _with_captions(sample, named)
        text = sample.text.strip()
        if self.scripts and text:
            sample = self._of_scripts(sample)
            text = sample.text.strip()
            if not text:
                return "other script"
        if not text:
            return "missing caption"
        if len(text) < self.min_chars:
            return "caption too short"
        if self.max_chars and len(text) > self.max_chars:
            return "caption too long"
        return sample

    def _of_scripts(self, sample: Sample) -> Sample:
        """The sample with those of its captions alone that are written in the scripts."""
        fit = {
            code: [text for text in _said(sample, code) if share(text, self.scripts) >= self.script_share]
            for code in sample.captions
        }
        return _with_captions(sample, fit)

    def _picture(self, sample: Sample) -> tuple[Sample | str, Fingerprint | None]:
        try:
            picture = decode(sample.image, Limits(most_pixels=self.most_pixels))
        except Refused as refusal:
            return str(refusal), None
        shorter, longer = sorted(picture.size)
        if shorter < self.min_side:
            return "picture too small", None
        if self.max_aspect and longer > self.max_aspect * shorter:
            return "picture too long", None
        seen = fingerprint_of(picture) if self.drop_duplicate_pictures else None
        if not self.shrink or shorter <= self.shrink:
            return sample, seen
        scale = self.shrink / shorter
        file = io.BytesIO()
        picture.resize((round(picture.width * scale), round(picture.height * scale))).save(file, "WEBP", quality=90)
        return replace(sample, image=file.getvalue(), image_format="webp"), seen


def _said(sample: Sample, language: str) -> list[str]:
    """Every caption in `language`, the first one first."""
    return sample.said(language) or [sample.captions[language]]


def _with_captions(sample: Sample, said: Mapping[str, list[str]]) -> Sample:
    """The sample with these captions and no others, also where all of them are listed."""
    captions = {code: texts[0] for code, texts in said.items() if texts}
    if "all_captions" not in sample.metadata:
        return replace(sample, captions=captions)
    several = {code: texts for code, texts in said.items() if len(texts) > 1}
    return replace(sample, captions=captions, metadata={**sample.metadata, "all_captions": several})
