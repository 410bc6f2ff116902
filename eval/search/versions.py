"""An index folder: versions, each whole, and one pointer to the one that counts.

    INDEX/index.toml            the pointer: the name of a version
    INDEX/versions/000002/      index.faiss, rows.parquet, rows.arrow, columns.parquet, vectors.npy, queries.npy, and
                                index.toml, which says what they are

A version is written beside the folder, moved in, and only then pointed at; it never changes. Whenever a writer is
killed, the pointer names a whole version. The one before the last is kept for those who have it open.
"""

from __future__ import annotations

import os
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vlp.errors import UserError
from vlp.files import Partial, full_disk, sha256, sync_folder, write_whole
from vlp.legible import plain
from vlp.lock import locked

FORMAT = "vlp-index-2"
ONE_VERSION = "vlp-index-1"  # an earlier format: the files lie beside the only index.toml, whose sizes it does not say
PROGRESS = "progress.json"  # in a working folder: how far a build is that may go on
FILES = (
    "index.faiss",
    "index.faiss.removed.npy",
    "milvus.json",
    "milvus.json.removed.npy",
    "rows.parquet",
    "columns.parquet",
    "rows.arrow",
    "vectors.npy",
    "queries.npy",
    "frontier.json",
    "frontier.html",
)

BESIDE = ("versions", "milvus.db")  # what an index folder has before its first version counts


@dataclass(frozen=True)
class Version:
    """One version of an index."""

    files: Path  # the folder of its files
    about: dict[str, Any]

    @classmethod
    def current(cls, folder: Path) -> Version:
        """The version that `folder` points at. Raises UserError if it is no index, or if it says too little."""
        if not (folder / "index.toml").is_file():
            raise UserError(f"{folder} is not an index: it has no index.toml; make one with: vlp index build")
        pointer = _toml(folder / "index.toml")
        if pointer.get("format") == ONE_VERSION:
            return cls(folder, _whole(folder / "index.toml", pointer))
        if pointer.get("format") != FORMAT:
            raise UserError(
                f"{folder} has format {plain(pointer.get('format'))!r}; this version reads {FORMAT!r}: build it again"
            )
        name = pointer.get("version")
        if not isinstance(name, str) or not name.isdigit():
            raise UserError(f'{folder / "index.toml"} lacks "version"; build the index again')
        files = folder / "versions" / name
        if not (files / "index.toml").is_file():
            raise UserError(f"{files}, which {folder / 'index.toml'} points at, is gone; build the index again")
        return cls(files, _whole(files / "index.toml", _toml(files / "index.toml")))

    @property
    def of(self) -> Literal["pictures", "captions"]:
        """What is searched: pictures, or captions."""
        return "captions" if self.about.get("of") == "captions" else "pictures"

    def check_files(self) -> None:
        """Raise UserError if a file is missing or of another size than it was."""
        sizes = self.about.get("bytes", {})
        for file in self.about["sha256"]:
            path = self.files / file
            if not path.is_file():
                raise UserError(f"{path} is missing; build the index again")
            if path.stat().st_size != sizes.get(file, path.stat().st_size):
                raise UserError(
                    f"{path} was altered (it has {path.stat().st_size:,} bytes, not {sizes[file]:,}); "
                    "build the index again"
                )

    def altered(self) -> list[str]:
        """The files whose checksum is not the one in index.toml; reads all of them. Raises UserError as above."""
        self.check_files()
        return [file for file, digest in self.about["sha256"].items() if sha256(self.files / file) != digest]


def refuse_other_folder(out: Path) -> None:
    """Raise UserError if `out` holds something that is not an index, or the beginning of one."""
    if not out.exists() or (out / "index.toml").is_file():
        return
    begun = (*BESIDE, Partial(out / "index.toml").temporary.name)  # what a kill of the first build leaves
    if not out.is_dir() or any(path.name not in begun for path in out.iterdir()):
        raise UserError(f"{out} is there already and is not an index; choose another folder")


def working_folder(out: Path) -> Path:
    """Where the next version of `out` is written."""
    return out.with_name(f".{out.name}.part")


@contextmanager
def next_version(out: Path, *, going_on: bool = False, wait_s: float = 0.0) -> Iterator[Path]:
    """An empty folder, which becomes the version of `out` that counts when the context ends without an error.

    After an error nothing is left of it; after a kill it is, and `going_on` finds it again. Raises UserError if `out`
    is something else, if another program still writes it after `wait_s` seconds, or if the disk is full.
    """
    refuse_other_folder(out)
    with locked(out.parent, f".{out.name}.lock", what=out, wait_s=wait_s), full_disk(out):
        folder = working_folder(out)
        if not going_on:
            discard(folder, out)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            yield folder
            _put_in_place(folder, out)
        except Exception:
            discard(folder, out)
            raise


def discard(folder: Path, out: Path) -> None:
    """Remove a version of `out`, or the beginning of one, with what is kept for it alone somewhere else.

    First goes what says how far it is: one that a kill leaves half removed goes nowhere.
    """
    from eval.index.milvus import drop_unused

    (folder / PROGRESS).unlink(missing_ok=True)
    elsewhere = [path for path in folder.glob("*") if path.name == "milvus.json" or path.name.startswith("filled-")]
    if elsewhere:
        others = {path for path in (out / "versions").glob("*/milvus.json") if path.parent != folder}
        drop_unused(out, elsewhere, others)
    shutil.rmtree(folder, ignore_errors=True)


def seal(folder: Path, about: dict[str, Any]) -> None:
    """Write index.toml, the last file of a version: `about`, and the size and checksum of each of its files."""
    import tomli_w

    present = [file for file in FILES if (folder / file).is_file()]
    whole = {
        "format": FORMAT,
        **about,
        "bytes": {file: (folder / file).stat().st_size for file in present},
        "sha256": {file: sha256(folder / file) for file in present},
    }
    write_whole(folder / "index.toml", tomli_w.dumps(whole))


def link_or_copy(source: Path, target: Path) -> None:
    """The file `source` at `target` too: files of versions never change, so one may belong to several."""
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def _put_in_place(folder: Path, out: Path) -> None:
    for path in folder.iterdir():
        if path.name not in (*FILES, "index.toml"):
            path.unlink()
            continue
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sync_folder(folder)
    versions = out / "versions"
    versions.mkdir(parents=True, exist_ok=True)
    numbers = sorted(int(path.name) for path in versions.iterdir() if path.name.isdigit())
    name = f"{(numbers[-1] if numbers else 0) + 1:06d}"
    before = pointed_at(out)
    folder.replace(versions / name)
    sync_folder(versions)
    write_whole(out / "index.toml", f'format = "{FORMAT}"\nversion = "{name}"\n')
    for path in versions.iterdir():
        if path.name not in (name, before):
            discard(path, out)
    for earlier in FILES:
        (out / earlier).unlink(missing_ok=True)  # of an index of the earlier format


def pointed_at(out: Path) -> str:
    """The name of the version that counts; "" where there is none, or no telling."""
    try:
        return str(tomllib.loads((out / "index.toml").read_text(encoding="utf-8")).get("version", ""))
    except (OSError, ValueError):
        return ""


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid TOML: {plain(error)}; build the index again") from None


def _whole(path: Path, about: dict[str, Any]) -> dict[str, Any]:
    """`about` itself. Raises UserError if it is not what `seal` writes, or an earlier version wrote."""
    wanted = {"sha256": ("rows.parquet",), "kind": ("name",), "model": ("id", "name", "beside")}
    for name, keys in wanted.items():
        table = about.get(name)
        missing = [key for key in keys if not isinstance(table, dict) or not isinstance(table.get(key), str)]
        if missing:
            raise UserError(f'{path} lacks "{name}.{missing[0]}"; build the index again')
    return about
