"""`vlp import` and `vlp export`: models of other programs in and out, each compared with the program itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from tyro.conf import Positional

from vlp.config.bounds import AtLeastZero, check
from vlp.config.components import component, component_names
from vlp.errors import UserError
from vlp.files import whole_folder

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlp.models.exchange import Exchange

PICTURES = "bundled:emoji/val"
COMPARED = 16  # bundled pictures, with their English captions
LONG = "a very long caption that goes on and on, " * 12
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Import:
    """A model of open_clip or transformers as a model folder of vlp, compared with the program itself on pictures."""

    source: Positional[Path]
    """epoch_N.pt of open_clip, its model folder, or a folder of transformers (CLIPModel, SiglipModel)."""
    out: Positional[Path]
    """Model folder to write."""
    architecture: str = ""
    """open_clip's name of the architecture, where nothing beside a checkpoint says it."""
    tolerance: AtLeastZero = TOLERANCE
    """Largest distance between the two programs' embeddings of the same picture or caption."""


@dataclass(frozen=True)
class Export:
    """A model folder of vlp (or an open_clip name) for another program, compared with that program on pictures."""

    model: Positional[str]
    """Model folder, or an open_clip name such as ViT-B-32:laion2b_s34b_b79k."""
    out: Positional[Path]
    """Folder to write."""
    to: str
    """Program that the model is for: open_clip, transformers or onnx."""
    tolerance: AtLeastZero = TOLERANCE
    """Largest distance between the two programs' embeddings of the same picture or caption."""
    trust: bool = False
    """Let a model folder run code from outside of vlp that it names."""


def import_main(argv: Sequence[str]) -> int:
    """The command `vlp import`."""
    asked = tyro.cli(Import, args=list(argv), prog="vlp import")
    check(asked)
    run_import(asked)
    return 0


def export_main(argv: Sequence[str]) -> int:
    """The command `vlp export`."""
    asked = tyro.cli(Export, args=list(argv), prog="vlp export")
    check(asked)
    run_export(asked)
    return 0


def run_import(asked: Import) -> None:
    """Write the model folder, after the parity. Raises UserError, with nothing written, if it is off."""
    from vlp.models import release
    from vlp.models.exchange import parity
    from vlp.record import versions

    program = _reader(asked.source)
    parts = program.read(asked.source, asked.architecture)
    pictures, captions = bundled()
    with whole_folder(asked.out) as folder:
        notes = {"imported": str(asked.source.absolute()), **versions()}
        release.save(folder, config=parts.config, encoder=parts.encoder, tokenizer=parts.tokenizer, notes=notes)
        theirs = program.foreign(asked.source, asked.architecture)
        result = parity(release.load(folder), theirs, pictures, captions)
        result.check(asked.tolerance)
    print(f"{result} ({len(pictures)} bundled pictures)\nthe model is in {asked.out}")


def run_export(asked: Export) -> None:
    """Write the folder, after the parity. Raises UserError, with nothing written, if it is off."""
    from vlp.models import release
    from vlp.models.exchange import Exchange, parity

    program: Exchange = component(Exchange, asked.to)()
    model, config = release.load(asked.model, trust=asked.trust), release.configuration(asked.model, trust=asked.trust)
    pictures, captions = bundled()
    with whole_folder(asked.out) as folder:
        program.write(model, config, folder)
        result = parity(model, program.foreign(folder, ""), pictures, captions)
        result.check(asked.tolerance)
    print(f"{result} ({len(pictures)} bundled pictures)\nthe model is in {asked.out}")


def bundled() -> tuple[list[Image], list[str]]:
    """Pictures of the bundled corpus with their English captions, and a caption that is longer than any context."""
    from data_pipelines.shards.read_samples import read_samples
    from data_pipelines.shards.shard_set import ShardSet
    from vlp.pictures import Limits, decode

    some = list(islice(read_samples(ShardSet.open(PICTURES)), COMPARED))
    return [decode(sample.image, Limits()) for sample in some], [*(sample.text for sample in some), LONG]


def _reader(source: Path) -> Exchange:
    """The program whose model `source` is. Raises UserError if it is nobody's."""
    from vlp.models.exchange import Exchange

    if not source.exists():
        raise UserError(
            f"there is no {source}; give a checkpoint of open_clip, or a folder of open_clip or transformers"
        )
    for name in component_names(Exchange):
        program: Exchange = component(Exchange, name)()
        if program.recognises(source):
            return program
    raise UserError(
        f"{source} is no model that can be imported: it has no open_clip_config.json and no config.json, "
        "and it is no checkpoint file (.pt, .safetensors)"
    )
