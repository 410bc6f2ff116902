"""Rows of a batch: what is said of each sample, and how parts become a whole."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from data_pipelines.ledger import DropBudgetExceeded
from data_pipelines.loading.loader import Loader
from data_pipelines.loading.rows import Rows, joined
from data_pipelines.settings import Captions, Workers
from data_pipelines.stream import Stream
from vlp.batch import Batch
from vlp.models.image_transform import RandomCrop

WriteTar = Callable[[Path, Iterable[tuple[str, bytes]]], Path]
RECORDS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("only a text", {}),
    "named": ("a cat", {"captions": {"en": "a cat", "fr": "un chat"}, "meta": {"alt": {"long": "a tabby cat"}}}),
    "several": ("one", {"captions": {"en": "one"}, "all_captions": {"en": ["one", "two", "three"]}}),
}


def tokenizer(texts: list[str]) -> Tensor:
    rows = [[ord(c) for c in t] for t in texts]
    longest = max(map(len, rows))
    return torch.tensor([r + [0] * (longest - len(r)) for r in rows], dtype=torch.int64)


def said(row: Tensor) -> str:
    return "".join(map(chr, row[row > 0].tolist()))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, write_tar: WriteTar, picture: Callable[[int], bytes]) -> Path:
    folder = tmp_path_factory.mktemp("captions")
    files = []
    for n, (key, (text, record)) in enumerate(RECORDS.items()):
        files += [(f"{key}.png", picture(n)), (f"{key}.txt", text.encode())]
        files += [(f"{key}.json", json.dumps(record).encode())] if record else []
    write_tar(folder / "00000.tar", files)
    return folder


def opened(folder: Path, weights: dict[str, float], **more: Any) -> Loader:
    stream = Stream(shards=str(folder), captions=Captions(weights, **more), drop_budget=1.0)
    loader = stream.open(transform=RandomCrop(size=8), tokenizer=tokenizer, global_batch=3, seed=0)
    assert isinstance(loader, Loader)
    return loader


def everything_said(loader: Loader, batches: int = 40) -> dict[str, set[str]]:
    """key -> every caption that was said of it."""
    texts: dict[str, set[str]] = {}
    for _, batch in zip(range(batches), loader, strict=False):
        for key, row in zip(batch.keys, batch.text, strict=True):
            texts.setdefault(key, set()).add(said(row))
    return texts


def test_a_text_file_alone_is_the_english_caption(folder: Path) -> None:
    assert everything_said(opened(folder, {"txt": 1.0}))["plain"] == {"only a text"}
    assert everything_said(opened(folder, {"en": 1.0}))["plain"] == {"only a text"}


def test_every_one_of_several_captions_is_said(folder: Path) -> None:
    assert everything_said(opened(folder, {"en": 1.0}))["several"] == {"one", "two", "three"}


def test_a_path_reaches_into_the_record(folder: Path) -> None:
    loader = opened(folder, {"meta.alt.long": 1.0})
    assert everything_said(loader, 5) == {"named": {"a tabby cat"}}
    assert loader.ledger.by_reason().keys() == {"missing caption"}


def test_a_language_that_some_samples_lack_is_counted_and_its_weight_goes_to_the_others(folder: Path) -> None:
    loader = opened(folder, {"fr": 1.0})
    assert everything_said(loader, 5) == {"named": {"un chat"}}
    assert loader.ledger.by_reason() == {"missing caption": loader.ledger.dropped}
    both = opened(folder, {"fr": 1.0, "txt": 1e-9})
    assert everything_said(both, 20) == {"named": {"un chat"}, "plain": {"only a text"}, "several": {"one"}}
    assert both.ledger.dropped == 0


def test_a_language_that_no_sample_has_stops_the_run_and_says_what_is_missing(folder: Path) -> None:
    with pytest.raises(DropBudgetExceeded, match=r"nothing at all was delivered(.|\n)*missing caption"):
        everything_said(opened(folder, {"xx": 1.0}))


def part(rows: range, length: int) -> Batch:
    """A batch with a value in every field that Batch declares, whatever they are."""
    n = len(rows)
    values: dict[str, Any] = {
        f.name: torch.arange(rows.start, rows.stop) + i for i, f in enumerate(fields(Batch)) if "Tensor" in str(f.type)
    }
    values |= {f.name: tuple(map(str, rows)) for f in fields(Batch) if "tuple" in str(f.type)}
    values["image"] = torch.zeros(n, 3, 2, 2, dtype=torch.uint8)
    values["text"] = torch.arange(1, n * 2 * length + 1).view(n, 2, length)
    return Batch(**values)


def test_every_field_of_a_batch_is_handed_over_and_joined() -> None:
    """Through a pipe, in parts of different lengths: no field is lost, none is named here."""
    parts = [Rows(part(range(4), 3), [(0, "why", "a.tar")], {0: 2}), Rows(part(range(4, 6), 5), [], {5: 1})]
    packed = [pickle.loads(pickle.dumps(one.packed())) for one in parts]
    image = torch.ones(6, 3, 2, 2, dtype=torch.uint8)
    whole = joined(packed, image)
    assert whole.pairs.image is image
    assert (whole.dropped, whole.shifts) == ([(0, "why", "a.tar")], {0: 2, 5: 1})
    assert whole.pairs.text.shape == (6, 2, 5)
    for f in fields(Batch):
        values = [getattr(one.pairs, f.name) for one in parts]
        column = getattr(whole.pairs, f.name)
        if f.name == "text":
            assert torch.equal(column[:4, :, :3], values[0])
            assert torch.equal(column[4:], values[1])
            assert not column[:4, :, 3:].any()
        elif isinstance(column, tuple):
            assert column == values[0] + values[1]
        elif f.name != "image":
            assert torch.equal(column, torch.cat(values))
            assert column.dtype == values[0].dtype


def test_a_field_that_is_not_given_stays_so() -> None:
    batch = Batch(torch.zeros(2, 3, 2, 2), torch.ones(2, 3, dtype=torch.int64), ("a", "b"))
    whole = joined([Rows(batch).packed(), Rows(batch).packed()], torch.zeros(4, 3, 2, 2))
    assert whole.pairs.ids is None
    assert whole.pairs.weights is None
    assert whole.pairs.keys == ("a", "b", "a", "b")


def test_workers_hand_over_several_captions_and_ids_as_one_process_makes_them(folder: Path) -> None:
    stream = Stream(shards=str(folder), captions=Captions({"en": 1.0, "txt": 1.0}, texts=2), drop_budget=1.0)
    by_workers = Stream(**{**vars(stream), "workers": Workers(count=3, start_method="fork")})
    one, many = (
        s.open(transform=RandomCrop(size=8), tokenizer=tokenizer, global_batch=6, seed=0) for s in (stream, by_workers)
    )
    for _, a, b in zip(range(4), one, many, strict=False):
        assert a.text.shape[1] == 2
        for f in fields(Batch):
            x, y = getattr(a, f.name), getattr(b, f.name)
            assert torch.equal(x, y) if isinstance(x, Tensor) else x == y
    many.close()
