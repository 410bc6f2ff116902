"""One checkpoint, opened: what it says, whether it is as it was written, and its tensors part by part."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from torch import Tensor

from vlp.distributed.tensor_parts import Slice, Table, part_name, whole_table
from vlp.errors import UserError
from vlp.training.checkpoints.manifest import FORMAT, MANIFEST, Damaged, Manifest, OtherFormat
from vlp.training.checkpoints.place import Place
from vlp.training.checkpoints.writer import file_name

FORMER = "vlp-checkpoint-2"
FORMER_END = ".pt"
"""Ending of a checkpoint of the format before: one file, of one rank."""


class Source(Protocol):
    """A checkpoint of any format that can be read."""

    identity: dict[str, Any]
    plain: dict[str, Any]
    table: Table

    def check(self, ranks: Iterable[int]) -> None:
        """Raise Damaged if what these ranks wrote is not as it was."""

    def read(self, rank: int, name: str, inside: Slice) -> Tensor:
        """A part of what a rank wrote, as Reading.fill asks for it."""


class FolderSource:
    """A folder with a manifest, and a file of each rank that wrote it."""

    def __init__(self, place: Place, name: str) -> None:
        """Raises Damaged, and OtherFormat."""
        self.place, self.name = place, name
        try:
            manifest = Manifest.of(place.manifest(name))
        except FileNotFoundError:
            raise Damaged(f"{MANIFEST} is missing") from None
        self.files = {facts.name: facts for facts in manifest.files}
        self.identity, self.plain, self.table = manifest.identity, manifest.plain, manifest.table
        self._opened: dict[int, Any] = {}

    def check(self, ranks: Iterable[int]) -> None:
        """As in Source: their files are fetched, and compared with their checksums."""
        for rank in ranks:
            name = file_name(rank)
            self.files[name].check(self.place.fetch(self.name, name))

    def read(self, rank: int, name: str, inside: Slice) -> Tensor:
        """As in Source."""
        if rank not in self._opened:
            self._opened[rank] = safe_open(self.place.fetch(self.name, file_name(rank)), framework="pt")
        opened = self._opened[rank]
        part: Tensor = opened.get_slice(name)[inside] if inside else opened.get_tensor(name)
        return part


class FileSource:
    """A checkpoint of format 2: one file of torch's, which is read without running code (weights_only)."""

    def __init__(self, path: Path, names: list[list[str]]) -> None:
        """`names`: of each optimizer's weights, in its order. Raises Damaged, and OtherFormat."""
        try:
            with zipfile.ZipFile(path) as archive:
                if (damaged := archive.testzip()) is not None:  # torch.load itself compares no checksums
                    raise zipfile.BadZipFile(damaged)
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a damaged file makes the reader say
            raise Damaged(f"it cannot be read, {type(error).__name__}") from None
        if (form := state.get("format")) != FORMER:
            raise OtherFormat(str(form))
        self.identity: dict[str, Any] = state["identity"]
        self.plain: dict[str, Any] = {
            "metrics": state["metrics"],
            **{key: state[key] for key in ("watch", "tally", "streams")},
        }
        self.plain |= {"scalars": {}} | ({"scaler": state["scaler"]} if "scaler" in state else {})
        tensors = {f"model.{name}": t for name, t in state["model"].items()}
        tensors |= {f"average.{name}": t for name, t in (state["average"] or {}).items()}
        for own, saved in zip(names, state["optimizers"], strict=True):
            for index, values in saved["state"].items():
                tensors |= {f"optimizer.{own[index]}.{key}": t for key, t in values.items() if isinstance(t, Tensor)}
        self.table = whole_table(tensors)
        self._parts: dict[str, Tensor] = {
            part_name(name, self.table[name]["parts"][0][1]): t for name, t in tensors.items()
        }

    def check(self, ranks: Iterable[int]) -> None:
        """As in Source: that was done when it was opened."""

    def read(self, rank: int, name: str, inside: Slice) -> Tensor:
        """As in Source."""
        return self._parts[name][inside]


def open_source(place: Place, name: str, names: list[list[str]]) -> Source:
    """The checkpoint `name`, of any format that is known; `names` as in FileSource.

    Raises Damaged, and UserError for a format that this version does not read.
    """
    try:
        if name.endswith(FORMER_END):
            return FileSource(place.fetch(name, "").resolve(), names)
        return FolderSource(place, name)
    except OtherFormat as other:
        raise UserError(
            f"the checkpoint {place.url}/{name} has the format '{other}', but this version reads '{FORMAT}' and "
            f"'{FORMER}'; finish the run with the version that wrote it, or give --training.no-resume to start over"
        ) from None
