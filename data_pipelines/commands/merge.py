"""`vlp shards merge`: the parts of a build that was spread over many jobs, as one shard set."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from data_pipelines.shards import manifest
from data_pipelines.shards.manifest import Manifest
from vlp.errors import UserError

EXAMPLES = 10  # inputs that were left out, named for each reason


@dataclass(frozen=True)
class Piece:
    """One of `of` equal pieces of a source, numbered from 1: inputs `number`, `number` + `of`, ..."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Piece:
        """The piece that "3/16" names. Raises UserError if it names none."""
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise UserError(f'--part is "{text}", but it should be i/n with i from 1 to n, such as 3/16')
        return cls(int(match[1]), int(match[2]))

    @property
    def folder(self) -> str:
        """The name of the folder that the piece is built in."""
        return f"part-{self.number:05d}-of-{self.of:05d}"


def merge(out: Path) -> list[Manifest]:
    """The manifests of `out`, or of each folder in it that was built in pieces; the tars stay where they are.

    Raises UserError if a piece is missing or unfinished, or if pieces are of different builds.
    """
    folders = [out] if _pieces(out) else sorted(f for f in out.glob("*") if f.is_dir() and _pieces(f))
    if not folders:
        raise UserError(f"{out} has no parts; build them with `vlp shards build SOURCE {out} --part i/n`")
    merged = [(folder, _merged(folder)) for folder in folders]
    for folder, one in merged:
        one.write(folder)
    return [one for _, one in merged]


def _pieces(folder: Path) -> dict[Piece, Path]:
    """The folders of the pieces that lie in `folder`."""
    named = ((re.fullmatch(r"part-(\d+)-of-(\d+)", path.name), path) for path in folder.glob("part-*-of-*"))
    return {Piece(int(match[1]), int(match[2])): path for match, path in named if match}


def _merged(folder: Path) -> Manifest:
    pieces = _pieces(folder)
    if len(counts := {piece.of for piece in pieces}) > 1:
        raise UserError(
            f"{folder} has parts of {' and of '.join(map(str, sorted(counts)))}; remove those of the other build"
        )
    of = counts.pop()
    wanted = [Piece(number, of) for number in range(1, of + 1)]
    missing = [p for p in wanted if p not in pieces or not (pieces[p] / manifest.FILE).is_file()]
    if missing:
        names = ", ".join(f"{p.number}/{p.of}" for p in missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise UserError(
            f"{len(missing)} of {of} parts of {folder} are not finished: --part {names}; build them, then merge"
        )
    read = [(pieces[piece], manifest.read(pieces[piece])) for piece in wanted]
    left_out: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    for path, one in read:
        if _recipe(one) != _recipe(read[0][1]):
            raise UserError(
                f"{path} was built from something else or with other filters than {read[0][0]}; build it again"
            )
        left_out.update(one.counts)
        for reason, some in one.examples.items():
            examples[reason] = [*examples.get(reason, []), *some][:EXAMPLES]
    shards = tuple(replace(row, file=f"{path.name}/{row.file}") for path, one in read for row in one.shards)
    about = {**read[0][1].about, "recipe": _recipe(read[0][1]), "parts": of}
    return Manifest(folder.name, shards, dict(left_out), examples, about)


def _recipe(one: Manifest) -> dict[str, Any]:
    """What a build was asked for, apart from which piece of it."""
    return {key: value for key, value in dict(one.about.get("recipe", {})).items() if key != "part"}


def main(argv: Sequence[str]) -> int:
    """`vlp shards merge OUT`: 0 when the manifest is written. Raises UserError."""
    import tyro

    def command(out: Positional[Path]) -> int:
        """Make one shard set of the parts that `vlp shards build SOURCE OUT --part i/n` wrote.

        Args:
            out: folder that the parts were built in; it gets a manifest.json, and the tars stay where they are.
        """
        for done in merge(out):
            size = sum(shard.bytes for shard in done.shards) / 1e6
            print(f"{done.name}: {done.samples} samples in {len(done.shards)} shards, {size:.1f} MB")
        return 0

    return int(tyro.cli(command, args=list(argv), prog="vlp shards merge"))
