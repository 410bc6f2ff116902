"""Batches from the user's own webdataset pipeline, or any iterable of samples: `data.source = "my_lab.pipes:make"`.

A sample is a dictionary as webdataset gives them: a picture (bytes, PIL or an array) under jpg, png, webp, ..., and
captions under txt, json, caption or captions. How the samples are read, shuffled and shared among ranks is the
pipeline's own affair; decoding, captions, tokens and the count of losses are those of every stream.
"""

from __future__ import annotations

import importlib
import inspect
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from data_pipelines import decode
from data_pipelines.ledger import Ledger
from data_pipelines.loading.epoch_order import mix
from data_pipelines.loading.position import PIPELINE_FORMAT
from data_pipelines.loading.recipe import Drop, Origin, Pair, Recipe
from data_pipelines.sample import Sample
from data_pipelines.shards.tar_index import IMAGE
from vlp.batch import Batch
from vlp.config import did_you_mean
from vlp.config.components import current_folder_last
from vlp.errors import UserError
from vlp.pictures import Refused, to_rgb

PATIENCE = 1000  # samples that are tried before the drop budget counts
PICTURES = (*IMAGE, "image")  # keys of a sample under which its picture may be


@dataclass(frozen=True)
class Pipeline:
    """A function that makes an iterable of samples, by its name `module:function`."""

    name: str
    note = "the data come from a pipeline of your own: a resumed run begins it anew, with another epoch number"
    sha256 = ()  # nobody knows what it reads

    def begin(self, *, seed: int = 0, epoch: int = 0, rank: int = 0, size: int = 1) -> Iterator[Mapping[str, Any]]:
        """The samples of one pass. Raises UserError if the function is not there, or gives something else.

        The function is given those of rank, size, seed and epoch that it has arguments for.
        """
        make = self._function()
        known = {"rank": rank, "size": size, "seed": seed, "epoch": epoch}
        taken = inspect.signature(make).parameters
        every = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in taken.values())
        if size > 1 and not (every or {"rank", "size"} <= taken.keys()):
            raise UserError(
                f'data.source "{self.name}" takes no rank and size, so that each of {size} ranks would read the same '
                "samples: give it these arguments, and let it share them out"
            )
        samples = make(**{name: value for name, value in known.items() if every or name in taken})
        if not isinstance(samples, Iterable):
            raise UserError(
                f'data.source "{self.name}" gives a {type(samples).__name__}; expected an iterable of samples'
            )
        for sample in samples:
            if not isinstance(sample, Mapping):
                raise UserError(
                    f'data.source "{self.name}" gives a {type(sample).__name__}; expected dictionaries with a picture '
                    "under jpg, png or webp and a caption under txt or json (leave to_tuple and batched out)"
                )
            yield sample

    def samples(self, *, skip: Ledger) -> Iterator[Sample]:
        """The samples of a first pass without their pictures, for a tokenizer; broken ones are counted in `skip`."""
        for sample in self.begin():
            record, garbled = record_of(sample)
            if garbled:
                skip.drop("undecodable caption", self.name)
            yield Sample.of_record(str(sample.get("__key__", "")), b"", "", record)

    def _function(self) -> Callable[..., Any]:
        module, _, function = self.name.partition(":")
        if not module or not function:
            raise UserError(f'data.source is "{self.name}"; expected module:function, such as my_lab.pipes:make')
        try:
            with current_folder_last():
                there = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not module.startswith(error.name):
                raise
            raise UserError(f'data.source "{self.name}": there is no module "{module}" on the Python path') from None
        make = getattr(there, function, None)
        if not callable(make):
            near = did_you_mean(function, [name for name, value in vars(there).items() if inspect.isfunction(value)])
            raise UserError(f'data.source "{self.name}": {module} has no function "{function}"{near}')
        return make  # type: ignore[no-any-return]


class PipelineLoader:
    """The batches of one rank, for ever: when the pipeline ends, the next epoch begins. Only counts can be resumed.

    Samples have no numbers: nobody knows which one a pipeline gives again.
    """

    numbers = 0

    def __init__(self, pipeline: Pipeline, recipe: Recipe, *, global_batch: int, rank: int, size: int) -> None:
        self._pipeline, self._recipe, self._rank, self._size = pipeline, recipe, rank, size
        self._rows = range(rank * global_batch // size, (rank + 1) * global_batch // size)
        self.epoch, self.batch = 0, 0  # of the pass that is read; of the next batch, counted through all epochs
        self.ledger = Ledger()
        """what this rank delivered and what it could not"""

    def __iter__(self) -> Iterator[Batch]:
        """Batches of [B / ranks] rows, of a pass that begins now.

        Raises DropBudgetExceeded, and UserError if a pass has no samples at all.
        """
        samples = self._passes()
        while True:
            image = self._recipe.memory(len(self._rows))
            pairs = [self._deliver(samples, image[i]) for i in range(len(self._rows))]
            self.batch += 1
            yield self._recipe.batch(image, pairs)

    def _passes(self) -> Iterator[tuple[Mapping[str, Any], int]]:
        """(sample, a number of its own) of pass after pass."""
        while True:
            sample = None
            begun = self._pipeline.begin(seed=self._recipe.seed, epoch=self.epoch, rank=self._rank, size=self._size)
            for place, sample in enumerate(begun):
                yield sample, mix(self._recipe.seed, 6, self.epoch, self._rank, place)
            if sample is None:
                raise UserError(f'data.source "{self._pipeline.name}" gave no samples in epoch {self.epoch}')
            self.epoch += 1

    def _deliver(self, samples: Iterator[tuple[Mapping[str, Any], int]], out: Tensor) -> Pair:
        """The next sample that can be delivered, its picture in `out`; those that cannot are counted."""
        for sample, chance in samples:
            try:
                pair = self._pair(sample, chance, out)
            except (Drop, Refused) as problem:
                self.ledger.drop(str(problem), str(sample.get("__url__") or self._pipeline.name))
                self.ledger.check(self._recipe.drop_budget, patience=PATIENCE)
                continue
            self.ledger.delivered += 1
            return pair
        raise AssertionError("passes never end")

    def _pair(self, sample: Mapping[str, Any], chance: int, out: Tensor) -> Pair:
        record, garbled = record_of(sample)
        rng, shard = random.Random(chance), str(sample.get("__url__") or self._pipeline.name)
        pair = self._recipe.pair(
            record, Origin(str(sample.get("__key__", "")), shard, mix(chance, 7)), rng, garbled=garbled
        )
        picture = next((sample[name] for name in PICTURES if name in sample), None)
        if picture is None:
            raise Drop("missing picture")
        if isinstance(picture, bytes):
            self._recipe.show(out, picture, rng)
            return pair
        pixels = pixels_of(picture)
        self._recipe.limits.check(pixels.shape[1], pixels.shape[0])
        self._recipe.show_decoded(out, pixels, rng)
        return pair

    def close(self) -> None:
        """Nothing is open between batches."""

    def state_dict(self) -> dict[str, Any]:
        """The epoch and the counts, as plain JSON values; the pipeline itself begins anew when it is resumed."""
        return {
            "format": PIPELINE_FORMAT,
            "order": {"source": self._pipeline.name},
            "epoch": self.epoch,
            "batch": self.batch,
            "shifts": [],
            "rows": [[self._rows.start, self._rows.stop]],
            "ledger": self.ledger.state(),
        }

    def restore(self, state: Mapping[str, Any], *, first: bool) -> None:
        """Begin the epoch after that of a merged state; the ledger goes on on the `first` rank. Raises UserError."""
        if state.get("format") != PIPELINE_FORMAT:
            raise UserError(f"the stream state has format {state.get('format')!r}, expected {PIPELINE_FORMAT!r}")
        self.epoch, self.batch = int(state["epoch"]) + 1, int(state["batch"])
        if first:
            self.ledger = Ledger.of(state["ledger"])


def record_of(sample: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """The record of a pipeline's sample, as shards have it (its .json, with the .txt under "txt").

    Also whether a part of it could not be read: that counts as not there.
    """
    garbled = False
    tree = sample.get("json", {})
    if isinstance(tree, bytes | str):
        try:
            tree = json.loads(tree)
        except ValueError:
            tree, garbled = {}, True
    record = dict(tree) if isinstance(tree, Mapping) else {}
    for name in ("txt", "caption", "text", "captions", "cls"):
        value = sample.get(name)
        if isinstance(value, bytes):
            try:
                value = value.decode()
            except UnicodeDecodeError:
                value, garbled = None, True
        if value is not None:
            record[name] = value
    return record, garbled or not isinstance(tree, Mapping)


def pixels_of(picture: Any) -> decode.Pixels:
    """A decoded picture as RGB [H, W, 3] uint8: a PIL image, or an array or tensor (H, W, 3), or (3, H, W), of uint8.

    Numbers with a fraction count from 0 to 1, as webdataset's decoders give them. Raises Refused.
    """
    if hasattr(picture, "convert"):
        return np.array(to_rgb(picture))
    array = np.asarray(picture)
    if array.ndim == 3 and array.shape[2] != 3 and array.shape[0] == 3:
        array = np.moveaxis(array, 0, 2)
    if array.ndim != 3 or array.shape[2] != 3:
        raise Refused("undecodable picture")
    if np.issubdtype(array.dtype, np.floating):
        array = (array * 255).round().clip(0, 255)
    return np.ascontiguousarray(array.astype(np.uint8))
