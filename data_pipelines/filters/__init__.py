"""What makes a sample unfit, one filter a file: its fields are flags of `vlp shards build`.

A new filter is a new file here with one Filter in it. The stages of all filters are run in the order of their names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

from data_pipelines.sample import Sample
from data_pipelines.writing.repeats import Traits
from vlp.config import did_you_mean
from vlp.config.bounds import check
from vlp.config.components import component, component_names
from vlp.errors import UserError
from vlp.pictures import Limits, Refused, decode

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Filter:
    """A kind of reason to leave samples out. Each stage gives back the sample, perhaps changed, or the reason."""

    component_package: ClassVar[str] = "data_pipelines.filters"
    always_recorded: ClassVar[bool] = False
    """whether a manifest names all fields, or only those that are not at their default; a filter that is added later
    leaves this as it is, so that folders which were built before still count as finished"""

    @property
    def looks_for_repeats(self) -> bool:
        """Whether samples have to be remembered, because `traits` are asked for."""
        return False

    def choose(self, sample: Sample) -> Sample | str:
        """First stage: which captions stay."""
        return sample

    def refuse(self, text: str) -> str:
        """Second stage: why the first caption of those that stayed is unfit; "" if it is not."""
        return ""

    def limits(self) -> Limits | None:
        """What a picture must keep to before it is decoded, if this filter says so."""
        return None

    def traits(self, sample: Sample, picture: Image) -> Traits | None:
        """By what a repetition of the sample is recognised, if this filter looks for them."""
        return None

    def look(self, sample: Sample, picture: Image) -> Sample | str:
        """Last stage, with the decoded picture."""
        return sample

    def recorded(self) -> dict[str, Any]:
        """The fields as a manifest names them."""
        values = asdict(self)
        return values if self.always_recorded else {k: v for k, v in values.items() if v != _default(self, k)}


def _default(instance: Filter, name: str) -> Any:
    one = instance.__dataclass_fields__[name]
    return one.default if one.default_factory is MISSING else one.default_factory()


def kinds() -> dict[str, type[Filter]]:
    """Every filter that there is, by the name of its file."""
    return {name: component(Filter, name) for name in component_names(Filter)}


@dataclass(frozen=True)
class Filters:
    """All filters, each with its settings. A sample that is not kept is counted under the reason that `judge` gives."""

    every: tuple[Filter, ...] = field(default_factory=lambda: tuple(kind() for kind in kinds().values()))

    @classmethod
    def of(cls, **settings: Any) -> Filters:
        """The filters with these settings, whichever file each is of. Raises UserError for an unknown one."""
        left, every = dict(settings), []
        for kind in kinds().values():
            own = {one.name: left.pop(one.name) for one in fields(kind) if one.name in left}
            every.append(kind(**own))
            check(every[-1])
        if left:
            known = [one.name for kind in kinds().values() for one in fields(kind)]
            raise UserError(f'no filter has a setting "{next(iter(left))}"{did_you_mean(next(iter(left)), known)}')
        return cls(tuple(every))

    @property
    def recorded(self) -> dict[str, Any]:
        """The settings as a manifest names them."""
        return {name: value for one in self.every for name, value in one.recorded().items()}

    @property
    def looks_for_repeats(self) -> bool:
        """Whether samples have to be remembered to find their repetitions."""
        return any(one.looks_for_repeats for one in self.every)

    def apply(self, sample: Sample) -> Sample | str:
        """The sample as it goes into the shard, or the reason why it does not."""
        return self.judge(sample)[0]

    def judge(self, sample: Sample) -> tuple[Sample | str, Traits]:
        """What `apply` says, and by what a repetition of the sample is recognised."""
        chosen = self._through(sample, lambda one, sample: one.choose(sample))
        if isinstance(chosen, str):
            return chosen, Traits()
        reason = next(filter(None, (one.refuse(chosen.text.strip()) for one in self.every)), "")
        if reason:
            return reason, Traits()
        try:
            picture = decode(chosen.image, next(filter(None, (one.limits() for one in self.every)), Limits()))
        except Refused as refusal:
            return str(refusal), Traits()
        kept = self._through(chosen, lambda one, sample: one.look(sample, picture))
        if isinstance(kept, str):
            return kept, Traits()
        return kept, next(filter(None, (one.traits(chosen, picture) for one in self.every)), Traits())

    def _through(self, sample: Sample, stage: Callable[[Filter, Sample], Sample | str]) -> Sample | str:
        """The sample after one stage of every filter, or the first reason against it."""
        for one in self.every:
            passed = stage(one, sample)
            if isinstance(passed, str):
                return passed
            sample = passed
        return sample


def texts_of(sample: Sample, language: str) -> list[str]:
    """Every caption of a sample in `language`, the first one first."""
    return sample.said(language) or [sample.captions[language]]


def with_captions(sample: Sample, texts: Mapping[str, list[str]]) -> Sample:
    """The sample with these captions and no others, also where all of them are listed."""
    captions = {code: some[0] for code, some in texts.items() if some}
    if "all_captions" not in sample.metadata:
        return replace(sample, captions=captions)
    several = {code: some for code, some in texts.items() if len(some) > 1}
    return replace(sample, captions=captions, metadata={**sample.metadata, "all_captions": several})
