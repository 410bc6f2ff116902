"""CIFAR-10 and CIFAR-100 as their makers pack them: the Python batches, which are never run, and the binary ones."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_pipelines.sample import Sample
from eval.datasets import Block, Dataset, Protocol
from eval.datasets._reading import absent, first_there, png, sum_of, together
from eval.prompts.class_names import classes, first_names
from eval.prompts.classifier import spoken
from eval.prompts.templates import texts_of_set
from vlp.errors import UserError
from vlp.legible import plain

if TYPE_CHECKING:
    from data_pipelines.ledger import Ledger

SIDE, PIXELS = 32, 3 * 32 * 32
SOURCE = "https://www.cs.toronto.edu/~kriz/cifar.html"


class Layout(NamedTuple):
    """How one of the two is packed."""

    folders: tuple[str, str]  # of the Python and of the binary version
    files: dict[str, tuple[tuple[str, ...], tuple[str, ...]]]  # split -> files of either
    names: tuple[tuple[str, str], str]  # the file of names and its key in it; the file of the binary version
    labels: str  # key of the labels in a Python batch
    label_bytes: int  # before the pixels in a binary batch; the last one is the label
    sizes: dict[str, int]


LAYOUTS = {
    10: Layout(
        ("cifar-10-batches-py", "cifar-10-batches-bin"),
        {
            "test": (("test_batch",), ("test_batch.bin",)),
            "train": (
                tuple(f"data_batch_{i}" for i in range(1, 6)),
                tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
            ),
        },
        (("batches.meta", "label_names"), "batches.meta.txt"),
        "labels",
        1,
        {"test": 10_000, "train": 50_000},
    ),
    100: Layout(
        ("cifar-100-python", "cifar-100-binary"),
        {"test": (("test",), ("test.bin",)), "train": (("train",), ("train.bin",))},
        (("meta", "fine_label_names"), "fine_label_names.txt"),
        "fine_labels",
        2,
        {"test": 10_000, "train": 50_000},
    ),
}


@dataclass(frozen=True, kw_only=True)
class Cifar(Dataset):
    """Pictures of 32 x 32 pixels of 10 or 100 classes; `root` is the folder of the batches, or holds it."""

    kind: Literal[10, 100] = 10
    """number of classes: CIFAR-10 or CIFAR-100"""
    split: Literal["test", "train"] = "test"
    """which pictures"""

    @property
    def spec(self) -> str:
        """Folder and split."""
        return f"{self.root or f'CIFAR-{self.kind}'} ({self.split})"

    @property
    def protocol(self) -> Protocol:
        """The names and the 18 templates of CLIP's prompts for CIFAR."""
        return Protocol(
            classes=tuple(first_names(classes(f"cifar{self.kind}"))),
            templates=texts_of_set("cifar"),
            label="class",
            expected=self._layout.sizes[self.split],
            source=SOURCE,
        )

    def missing(self) -> str:
        """Neither version is there."""
        if self._files():
            return ""
        return absent(f"CIFAR-{self.kind}", Path(self.root), self._layout.folders, SOURCE)

    def blocks(self, skip: Ledger, *, skip_damaged: bool = False) -> Iterator[Block]:
        """The pictures of every batch, in order. Raises UserError for a batch that is cut off or no such thing."""
        labels = self.protocol.labels
        for path in self._files():
            rows, numbers = self._read(path)
            yield from together(str(path), _samples(path.name.removesuffix(".bin"), rows, numbers, labels))

    def sha256(self) -> str:
        """Of the batches."""
        return sum_of(f"cifar {self.kind} {self.split}", Path(self.root), self._files())

    @property
    def _layout(self) -> Layout:
        return LAYOUTS[self.kind]

    def _files(self) -> list[Path]:
        """The batches, of the Python version where both are there; none where there is neither."""
        for folder, files in zip(self._layout.folders, self._layout.files[self.split], strict=True):
            place = first_there(Path(self.root).expanduser(), [f"{folder}/{files[0]}", files[0]])
            if place is not None:
                return [place.parent / name for name in files]
        return []

    def _read(self, path: Path) -> tuple[NDArray[np.uint8], list[int]]:
        """[n, 3072] and (n,) the labels. Raises UserError."""
        if not path.is_file():
            raise UserError(f"{path} is missing; get CIFAR-{self.kind} again from {SOURCE}")
        rows, numbers = _binary(path, self._layout) if path.suffix == ".bin" else _python(path, self._layout)
        self._compare_names(path.parent)
        if rows.ndim != 2 or rows.shape[1] != PIXELS or len(rows) != len(numbers):
            raise UserError(f"{path} has pixels {rows.shape} and {len(numbers)} labels; expected [n, {PIXELS}] and n")
        beyond = [number for number in numbers if not 0 <= number < self.kind]
        if beyond:
            raise UserError(f"{path} has the label {beyond[0]}, but CIFAR-{self.kind} has {self.kind} classes")
        return rows, numbers

    def _compare_names(self, folder: Path) -> None:
        """Raise UserError if the names that lie beside the batches are not those that are used."""
        (python, key), binary = self._layout.names
        if (folder / python).is_file():
            listed = _unpickled(folder / python).get(key)
            own = [_text(name) for name in listed] if isinstance(listed, list) else []
        elif (folder / binary).is_file():
            own = (folder / binary).read_text(encoding="utf-8").split()
        else:
            return
        if [spoken(name) for name in own] != list(self.protocol.classes):
            raise UserError(f"the names of classes in {folder} are not those of CIFAR-{self.kind}: {plain(own, 100)}")


def _samples(name: str, rows: NDArray[np.uint8], numbers: list[int], labels: tuple[str, ...]) -> Iterator[Sample]:
    for row, (pixels, number) in enumerate(zip(rows, numbers, strict=True)):
        picture = pixels.reshape(3, SIDE, SIDE).transpose(1, 2, 0)
        yield Sample(f"{name}_{row:05d}", *png(picture), {}, {"class": labels[number]})


def _binary(path: Path, layout: Layout) -> tuple[NDArray[np.uint8], list[int]]:
    data = np.fromfile(path, np.uint8)
    wide = layout.label_bytes + PIXELS
    if len(data) == 0 or len(data) % wide:
        raise UserError(
            f"{path} has {len(data):,} bytes, which is no multiple of {wide:,}: it was cut off, get it again"
        )
    rows = data.reshape(-1, wide)
    return rows[:, layout.label_bytes :], rows[:, layout.label_bytes - 1].tolist()


def _python(path: Path, layout: Layout) -> tuple[NDArray[np.uint8], list[int]]:
    tree = _unpickled(path)
    data, labels = tree.get("data"), tree.get(layout.labels)
    if isinstance(data, _Array) and isinstance(labels, list) and all(type(one) is int for one in labels):
        return data.rows(path), labels
    raise UserError(f'{path} has no "data" and "{layout.labels}", as batches of CIFAR have; get it again from {SOURCE}')


def _unpickled(path: Path) -> dict[str, Any]:
    """What a pickled table holds: plain values and arrays of bytes. Raises UserError if it wants anything else.

    No code of the file is run: the three names that an array is packed with stand for classes of this module.
    """
    try:
        tree = _Plain(io.BytesIO(path.read_bytes()), encoding="latin-1").load()
    except UserError:
        raise
    except Exception as error:  # a damaged pickle raises nearly anything
        raise UserError(f"{path} is no batch of CIFAR, or was cut off ({plain(error)}); get it again") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path} is no batch of CIFAR: expected a table; get it again from {SOURCE}")
    return {_text(key): value for key, value in tree.items()}


def _text(value: object) -> str:
    """A text of Python 2, which Python 3 has as bytes or as a text, by how it was packed."""
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


class _Dtype:
    """Stands for numpy.dtype."""

    def __init__(self, code: str, *_: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        """Byte order and the like, of which single bytes have none."""


class _Array:
    """Stands for numpy.ndarray: what was packed, not yet an array."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.shape, self.dtype, self.by_column, self.data = state

    def rows(self, path: Path) -> NDArray[np.uint8]:
        """The array. Raises UserError if it is none of bytes."""
        data = self.data.encode("latin-1") if isinstance(self.data, str) else self.data
        count = int(np.prod([int(side) for side in self.shape], dtype=object))
        if getattr(self.dtype, "code", "") != "u1" or not isinstance(data, bytes) or len(data) != count:
            raise UserError(f"{path} has an array that is not of single bytes, or not whole; get it again")
        return np.frombuffer(data, np.uint8).reshape(self.shape, order="F" if self.by_column else "C")


def _array(_kind: object, _shape: object, _code: object) -> _Array:
    return _Array()


def _encoded(text: str, _encoding: str) -> bytes:
    """Stands for _codecs.encode, by which Python 3 packs bytes for Python 2."""
    return text.encode("latin-1")


ALLOWED = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _array for core in ("core", "_core")},
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encoded,
}


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise UserError(
                f"a batch of CIFAR wants to run {plain(module)}.{plain(name)}: it was made by somebody else"
            )
        return ALLOWED[module, name]
