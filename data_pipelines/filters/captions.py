"""Languages and lengths of captions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from data_pipelines.filters import Filter, texts_of, with_captions
from data_pipelines.sample import Sample
from vlp.config.bounds import Whole


@dataclass(frozen=True)
class CaptionFilter(Filter):
    """Which captions are kept, and how long the first of them may be."""

    always_recorded: ClassVar[bool] = True

    languages: tuple[str, ...] = ()
    """captions to keep, in this order; none named: all of them"""
    min_chars: Whole = 1
    """fewest characters of the first caption"""
    max_chars: Whole = 0
    """most characters of the first caption; 0: any number"""

    def choose(self, sample: Sample) -> Sample | str:
        """The sample with the captions in the named languages."""
        if not self.languages:
            return sample
        return with_captions(sample, {c: texts_of(sample, c) for c in self.languages if c in sample.captions})

    def refuse(self, text: str) -> str:
        """Why a first caption is unfit."""
        if not text:
            return "missing caption"
        if len(text) < self.min_chars:
            return "caption too short"
        return "caption too long" if self.max_chars and len(text) > self.max_chars else ""
