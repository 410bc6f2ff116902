"""CIFAR's batches: the pixels and classes of both versions, and pickles that want to run something."""

from __future__ import annotations

import io
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from data_pipelines.sample import Sample
from eval.datasets.cifar import Cifar
from eval.prompts.class_names import classes, first_names
from eval.prompts.templates import texts_of_set
from vlp.errors import UserError
from vlp.pictures import Limits, decode

Read = Callable[..., list[Sample]]
COUNT = 20


@pytest.fixture(scope="module")
def pixels(drawn: list[Sample]) -> np.ndarray:
    """[COUNT, 32, 32, 3] of bundled pictures, the last ones turned."""
    some = [np.asarray(decode(s.image, Limits()).resize((32, 32))) for s in drawn[:10]]
    return np.stack([*some, *(picture[::-1] for picture in some)])


def rows(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).reshape(len(pixels), -1)


def write_python(root: Path, kind: int, pixels: np.ndarray, labels: list[int], protocol: int = 2) -> Path:
    """As the makers pack them: with Python 2's names of keys as text or bytes, and names in a file of their own."""
    folder = root / ("cifar-10-batches-py" if kind == 10 else "cifar-100-python")
    folder.mkdir(parents=True)
    key, names, meta = (
        (b"labels", b"label_names", "batches.meta") if kind == 10 else (b"fine_labels", b"fine_label_names", "meta")
    )
    batch = {b"data": rows(pixels), key: labels, b"filenames": [b"a.png"] * len(labels), b"batch_label": b"testing"}
    (folder / ("test_batch" if kind == 10 else "test")).write_bytes(pickle.dumps(batch, protocol=protocol))
    own = [name.replace(" ", "_").encode() for name in first_names(classes(f"cifar{kind}"))]
    (folder / meta).write_bytes(pickle.dumps({names: own}, protocol=protocol))
    return folder


def write_binary(root: Path, kind: int, pixels: np.ndarray, labels: list[int]) -> Path:
    folder = root / ("cifar-10-batches-bin" if kind == 10 else "cifar-100-binary")
    folder.mkdir(parents=True)
    before = np.array([[label] if kind == 10 else [9, label] for label in labels], np.uint8)
    data = np.concatenate([before, rows(pixels)], axis=1)
    (folder / ("test_batch.bin" if kind == 10 else "test.bin")).write_bytes(data.tobytes())
    return folder


@pytest.mark.parametrize("kind", [10, 100])
@pytest.mark.parametrize("write", [write_python, write_binary])
def test_pixels_and_classes_come_back(kind: Any, write: Any, tmp_path: Path, pixels: np.ndarray, read: Read) -> None:
    labels = [(7 * i) % kind for i in range(COUNT)]
    folder = write(tmp_path, kind, pixels, labels)
    for root in (tmp_path, folder):
        dataset = Cifar(root=str(root), kind=kind, count=COUNT)
        samples = read(dataset)
        assert (np.stack([np.asarray(decode(s.image, Limits())) for s in samples]) == pixels).all()
        names = first_names(classes(f"cifar{kind}"))
        assert [s.metadata["class"] for s in samples] == [names[label] for label in labels]
    assert dataset.protocol.templates == texts_of_set("cifar")
    assert (len(dataset.protocol.templates), dataset.protocol.expected) == (18, 10_000)
    assert len(dataset.sha256()) == 64


class Python2(pickle._Pickler):  # type: ignore[name-defined]
    """Packs bytes as Python 2 packs its texts, and names numpy's modules as it did then: how the makers' files are."""

    dispatch: ClassVar[dict] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_bytes(self, data: bytes) -> None:
        self.write(b"T" + struct.pack("<i", len(data)) + data)
        self.memoize(data)

    dispatch[bytes] = save_bytes


def test_the_makers_files_were_packed_by_python_2(tmp_path: Path, pixels: np.ndarray, read: Read) -> None:
    folder = write_python(tmp_path, 10, pixels, [3] * COUNT)
    file = io.BytesIO()
    Python2(file, protocol=2).dump({b"data": rows(pixels), b"labels": [3] * COUNT})
    packed = file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert b"_codecs" not in packed
    assert b"numpy.core.multiarray" in packed
    (folder / "test_batch").write_bytes(packed)
    samples = read(Cifar(root=str(tmp_path), count=COUNT))
    assert (np.stack([np.asarray(decode(s.image, Limits())) for s in samples]) == pixels).all()


@pytest.mark.parametrize("protocol", [1, 2, 3, 4])
def test_every_way_to_pack_an_array_is_read(protocol: int, tmp_path: Path, pixels: np.ndarray, read: Read) -> None:
    write_python(tmp_path, 10, pixels, [1] * COUNT, protocol)
    samples = read(Cifar(root=str(tmp_path), count=COUNT))
    assert (np.stack([np.asarray(decode(s.image, Limits())) for s in samples]) == pixels).all()


class Evil:
    def __reduce__(self) -> Any:
        return os.system, (f"touch {os.environ['EVIL']}",)


def test_a_pickle_that_wants_to_run_something_is_refused(
    tmp_path: Path, pixels: np.ndarray, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVIL", str(tmp_path / "ran"))
    folder = write_python(tmp_path, 10, pixels, [1] * COUNT)
    (folder / "test_batch").write_bytes(pickle.dumps({b"data": Evil(), b"labels": []}))
    with pytest.raises(UserError, match=r"a batch of CIFAR wants to run (posix|os)\.system: it was made by somebody"):
        read(Cifar(root=str(tmp_path), count=COUNT))
    assert not (tmp_path / "ran").exists()


def batch(**over: Any) -> bytes:
    return pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 1], **over}, protocol=2)


@pytest.mark.parametrize(
    "data, sentence",
    [
        (batch()[:4000], "is no batch of CIFAR, or was cut off"),
        (b"", "is no batch of CIFAR, or was cut off"),
        (pickle.dumps([1, 2]), "is no batch of CIFAR: expected a table"),
        (pickle.dumps({"data": 1}), 'has no "data" and "labels"'),
        (pickle.dumps({b"data": np.zeros((2, 3072), np.float32), b"labels": [0, 1]}), "not of single bytes"),
        (pickle.dumps({b"data": np.zeros((2, 99), np.uint8), b"labels": [0, 1]}), r"pixels \(2, 99\) and 2 labels"),
        (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]}), r"pixels \(2, 3072\) and 1 labels"),
        (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 10]}), "has the label 10"),
    ],
)
def test_batches_that_are_none_are_one_sentence(data: bytes, sentence: str, tmp_path: Path, read: Read) -> None:
    (tmp_path / "test_batch").write_bytes(data)
    with pytest.raises(UserError, match=sentence) as caught:
        read(Cifar(root=str(tmp_path), count=-1))
    assert "\n" not in str(caught.value)


def test_cut_and_missing_files_are_one_sentence(tmp_path: Path, pixels: np.ndarray, read: Read) -> None:
    with pytest.raises(UserError, match=r"no CIFAR-10 in .*: expected cifar-10-batches-py or .*; get it from https:"):
        read(Cifar(root=str(tmp_path)))
    folder = write_binary(tmp_path, 10, pixels, [0] * COUNT)
    with pytest.raises(UserError, match="has 20 samples, but 10,000 are expected"):
        read(Cifar(root=str(tmp_path)))
    path = folder / "test_batch.bin"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"has 61,360 bytes, which is no multiple of 3,073: it was cut off"):
        read(Cifar(root=str(tmp_path)))
    (folder / "data_batch_1.bin").write_bytes(b"\0" * 3073)
    with pytest.raises(UserError, match=r"data_batch_2.bin is missing"):
        read(Cifar(root=str(tmp_path), split="train"))


def test_other_names_of_classes_are_refused(tmp_path: Path, pixels: np.ndarray, read: Read) -> None:
    folder = write_python(tmp_path, 10, pixels, [0] * COUNT)
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"cat"] * 10}))
    with pytest.raises(UserError, match=r"names of classes in .* are not those of CIFAR-10"):
        read(Cifar(root=str(tmp_path), count=-1))
