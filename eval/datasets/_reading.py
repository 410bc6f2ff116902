"""What readers of datasets share: files of annotations, pictures that these name, checksums."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data_pipelines.sample import Sample
from data_pipelines.sources import as_stored
from eval.datasets import SAMPLES_AT_ONCE, Block
from vlp.errors import UserError
from vlp.files import sha256
from vlp.legible import plain

if TYPE_CHECKING:
    from data_pipelines.ledger import Ledger


def first_there(root: Path, names: Iterable[str]) -> Path | None:
    """The first of `names` that is under `root`; None if none is."""
    return next((root / name for name in names if (root / name).exists()), None)


def absent(what: str, root: Path, names: Sequence[str], source: str) -> str:
    """The sentence for a dataset of which none of `names` is under `root`."""
    where = f'"{root}"' if str(root) not in ("", ".") else "the current folder"
    return f"there is no {what} in {where}: expected {' or '.join(names)}; get it from {source}, and give --root FOLDER"


def json_of(path: Path, what: str) -> Any:
    """The tree of a JSON file. Raises UserError if it is cut off, or none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not {what}, or was cut off ({plain(error)}); get it again") from None


def field_of(row: Any, name: str, kind: type | tuple[type, ...], path: Path) -> Any:
    """`row[name]`. Raises UserError if it is not there, or of another kind."""
    if not isinstance(row, Mapping) or not isinstance(row.get(name), kind):
        raise UserError(f'{path} has an entry without "{name}": {plain(row, 100)}; get it again')
    return row[name]


def texts_of(value: object, path: Path) -> list[str]:
    """The captions in an entry, which is one or a list. Raises UserError if there is none."""
    values = value if isinstance(value, list) else [value]
    texts = [one.strip() for one in values if isinstance(one, str) and one.strip()]
    if not texts:
        raise UserError(f"{path} has an entry without a caption: {plain(value, 100)}; get it again")
    return texts


def refuse_absent(paths: Sequence[Path], named_by: Path, skip: Ledger, *, skip_damaged: bool) -> None:
    """Raise UserError for pictures that an annotation file names and that are not there.

    With `skip_damaged` they are only counted in `skip`.
    """
    gone = [path for path in dict.fromkeys(paths) if not path.is_file()]
    if gone and not skip_damaged:
        raise UserError(
            f"{len(gone):,} of {len(set(paths)):,} pictures that {named_by} names are not there, such as {gone[0]}: "
            "unpack them again, or measure what is there: --skip-damaged"
        )
    if gone:
        lost = set(gone)
        skip.drop("missing picture", str(named_by), sum(path in lost for path in paths))


def stored(path: Path, skip: Ledger, place: str) -> tuple[bytes, str] | None:
    """A picture's bytes and its format, as shards would store it; None, counted, if it cannot be read."""
    try:
        picture = as_stored(path.read_bytes())
    except OSError:
        skip.drop("missing picture", place)
        return None
    if picture is None:
        skip.drop("undecodable picture", place)
    return picture


def captioned(key: str, picture: tuple[bytes, str], texts: Mapping[str, Sequence[str]], **metadata: Any) -> Sample:
    """A sample with the captions of each language, all of them kept."""
    several = {language: list(some) for language, some in texts.items() if len(some) > 1}
    rest = {**metadata, **({"all_captions": several} if several else {})}
    return Sample(key, *picture, {language: some[0] for language, some in texts.items() if some}, rest)


def png(pixels: NDArray[np.uint8]) -> tuple[bytes, str]:
    """An array [H, W] or [H, W, 3] as a PNG, and this format."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG", compress_level=1)
    return file.getvalue(), "png"


def together(place: str, samples: Iterable[Sample]) -> Iterator[Block]:
    """The samples in blocks of SAMPLES_AT_ONCE."""
    some = iter(samples)
    while block := list(islice(some, SAMPLES_AT_ONCE)):
        yield place, block


def sum_of(settings: str, root: Path, paths: Iterable[Path]) -> str:
    """sha256 (hex) of `settings`, and of the names under `root` and the contents of these files."""
    digest = hashlib.sha256(settings.encode())
    for path in sorted(set(paths)):
        if path.is_file():
            name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
            about = path.stat()
            digest.update(f"\n{name} {_known_sum(str(path), about.st_size, about.st_mtime_ns)}".encode())
    return digest.hexdigest()


@lru_cache(maxsize=1 << 20)
def _known_sum(path: str, _size: int, _changed: int) -> str:
    return sha256(Path(path))
