"""The stream on real tars: exactly once, in one order, from any stop on any layout, with every loss counted."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from data_pipelines.ledger import DropBudgetExceeded, Ledger
from data_pipelines.loading.loader import Loader
from data_pipelines.loading.position import merge_states
from data_pipelines.settings import Captions, Decoding, Workers
from data_pipelines.shards.read_samples import read_samples
from data_pipelines.shards.shard_set import ShardSet
from data_pipelines.stream import Stream
from vlp.batch import Batch
from vlp.errors import UserError
from vlp.models.image_transform import RandomCrop

MakeShards = Callable[..., Path]
WriteTar = Callable[..., Path]
CROP = RandomCrop(size=8, scale=(1.0, 1.0), ratio=(1.0, 1.0))
COUNTS = (7, 30, 1, 13, 22)  # 73 samples


def tokenizer(texts: list[str]) -> Tensor:
    rows = [[ord(c) % 250 + 1 for c in t] for t in texts]
    longest = max(map(len, rows))
    return torch.tensor([r + [0] * (longest - len(r)) for r in rows], dtype=torch.int64)


def opened(stream: Stream, batch: int, size: int = 1, state: Any = None, seed: int = 3) -> list[Loader]:
    return [
        stream.open(transform=CROP, tokenizer=tokenizer, global_batch=batch, rank=r, size=size, seed=seed, state=state)
        for r in range(size)
    ]


def keys(loaders: list[Loader], batches: int) -> list[tuple[str, ...]]:
    """The keys of global batches."""
    out = []
    for _ in range(batches):
        out.append(sum((next(iter(loader)).keys for loader in loaders), ()))
    return out


def states(loaders: list[Loader]) -> list[dict[str, Any]]:
    return json.loads(json.dumps([loader.state_dict() for loader in loaders]))


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, make_shards: MakeShards) -> Path:
    return make_shards(tmp_path_factory.mktemp("healthy"), COUNTS)


@pytest.fixture(scope="session")
def damaged(tmp_path_factory: pytest.TempPathFactory, make_shards: MakeShards) -> Path:
    return make_shards(tmp_path_factory.mktemp("damaged"), COUNTS, frozenset({3, 8, 9, 10, 40, 72}))


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_layout_resumes_with_the_very_next_sample(folder: Path, damaged: Path, data: st.DataObject) -> None:
    """Random layouts x batch sizes x ranks x stop points, on healthy and on damaged shards."""
    batch = data.draw(st.integers(1, 24), "batch")
    stream = Stream(
        shards=str(data.draw(st.sampled_from([folder, damaged]), "folder")),
        captions=Captions({"en": 1.0, "zh": 1.0}),
        lanes=data.draw(st.integers(1, 12), "lanes"),
        window=data.draw(st.integers(1, 20), "window"),
        last=data.draw(st.sampled_from(["wrap", "drop"]), "last"),
        drop_budget=1.0,
    )
    want = keys(opened(stream, batch), 12)
    stops = [0, *sorted(data.draw(st.lists(st.integers(0, 12), max_size=3), "stops")), 12]
    got, state = [], None
    for start, stop in pairwise(stops):
        size = data.draw(st.sampled_from(divisors(batch)), "ranks")
        loaders = opened(stream, batch, size, state)
        got += keys(loaders, stop - start)
        state = states(loaders)
    assert got == want


def test_each_epoch_delivers_every_sample_once(folder: Path) -> None:
    loader = opened(Stream(shards=str(folder), last="wrap"), 10)[0]
    assert (loader.samples_per_epoch, loader.batches_per_epoch) == (73, 8)
    for _ in range(3):
        seen = Counter(key for rows in keys([loader], 8) for key in rows)
        assert set(seen) == {f"{n:05d}" for n in range(73)}
        assert sum(seen.values()) == 80


def test_whole_batches_are_equal_on_any_number_of_ranks(folder: Path) -> None:
    """Not the keys alone: pictures, captions, ids too."""
    stream = Stream(shards=str(folder), captions=Captions({"en": 1.0, "zh": 1.0, "tags.en": 1.0}))
    (one,), three = opened(stream, 12), opened(stream, 12, 3)
    for _ in range(8):
        whole, parts = next(iter(one)), [next(iter(p)) for p in three]
        assert torch.equal(whole.image, torch.cat([p.image for p in parts]))
        assert whole.ids is not None
        assert whole.ids.tolist() == [i for p in parts for i in p.ids.tolist()]  # type: ignore[union-attr]
        for row, text in enumerate(whole.text):
            part = parts[row // 4].text[row % 4]
            assert text[text > 0].tolist() == part[part > 0].tolist()


def test_pictures_and_texts_belong_to_their_keys(folder: Path) -> None:
    batch = next(iter(opened(Stream(shards=str(folder)), 16)[0]))
    for key, image, text in zip(batch.keys, batch.image, batch.text, strict=True):
        assert image[:, 4, 4].tolist() == [int(key) % 256, 0, 7]
        assert text[text > 0].tolist() == tokenizer([f"caption {int(key)}"])[0].tolist()


def test_ids_are_those_of_the_concept_and_can_be_left_out(folder: Path) -> None:
    batch = next(iter(opened(Stream(shards=str(folder)), 73)[0]))
    assert batch.ids is not None
    by_id = {}
    for key, i in zip(batch.keys, batch.ids.tolist(), strict=True):
        by_id.setdefault(i, set()).add(int(key) // 2)
    assert all(len(concepts) == 1 for concepts in by_id.values())
    assert next(iter(opened(Stream(shards=str(folder), ids=""), 4)[0])).ids is None


def test_several_captions_of_a_picture(folder: Path) -> None:
    batch = next(iter(opened(Stream(shards=str(folder), captions=Captions({"en": 1, "zh": 1}, texts=2)), 6)[0]))
    assert batch.text.shape[:2] == (6, 2)
    assert not torch.equal(batch.text[:, 0], batch.text[:, 1])


def test_a_cache_of_decoded_pictures_changes_nothing(folder: Path) -> None:
    plain, cached = (opened(Stream(shards=str(folder), workers=Workers(cache_bytes=n)), 8)[0] for n in (0, 1 << 20))
    for _ in range(25):
        a, b = next(iter(plain)), next(iter(cached))
        assert a.keys == b.keys
        assert torch.equal(a.image, b.image)
        assert torch.equal(a.text, b.text)


def test_losses_are_counted_by_reason_and_shard_and_survive_a_restart(damaged: Path) -> None:
    stream = Stream(shards=str(damaged), drop_budget=0.5)
    loaders = opened(stream, 12, 3)
    seen = {key for rows in keys(loaders, 7) for key in rows}
    total = Ledger()
    for loader in loaders:
        total.merge(loader.ledger)
    assert total.by_reason().keys() == {"undecodable picture"}
    assert {Path(shard).name for _, shard in total.drops} == {"00000.tar", "00001.tar", "00003.tar", "00004.tar"}
    assert not seen & {"00003", "00008", "00009", "00010", "00040", "00072"}
    assert total.delivered == 84
    again = opened(stream, 12, 2, states(loaders))
    assert again[0].ledger.state() == total.state()
    assert again[1].ledger.state() == Ledger().state()


def test_the_drop_budget_stops_the_run_with_the_table(damaged: Path) -> None:
    loader = opened(Stream(shards=str(damaged)), 8)[0]
    with pytest.raises(DropBudgetExceeded, match=r"drop_budget allows 1.00%(.|\n)*undecodable picture(.|\n)*00001.tar"):
        keys([loader], 20)


@pytest.mark.parametrize(
    "more",
    [
        {"captions": Captions({"fr": 1.0})},
        {"decoding": Decoding(min_side=100)},
        {"captions": Captions(min_chars=100)},
    ],
)
def test_a_filter_that_drops_everything_says_so(folder: Path, more: dict[str, Any]) -> None:
    with pytest.raises(DropBudgetExceeded, match="nothing at all was delivered"):
        keys(opened(Stream(shards=str(folder), **more), 8), 1)


def test_what_the_index_loses_is_in_the_ledger_at_once(tmp_path: Path, make_shards: MakeShards) -> None:
    folder = make_shards(tmp_path, (200, 200))
    data = (folder / "00001.tar").read_bytes()
    (folder / "00001.tar").write_bytes(data[: len(data) * 9 // 10])
    loader = opened(Stream(shards=str(folder), drop_budget=0.5), 8)[0]
    assert set(loader.ledger.by_reason()) <= {"cut, unknown loss", "truncated tail", "missing caption"}
    assert loader.ledger.dropped == 400 - loader.samples_per_epoch > 0


def test_a_manifest_that_promises_more_is_found_out(tmp_path: Path, make_shards: MakeShards) -> None:
    folder = make_shards(tmp_path, (20, 20))
    shards = [{"file": f"0000{i}.tar", "samples": n, "bytes": 1, "sha256": ""} for i, n in enumerate((20, 24))]
    (folder / "manifest.json").write_text(json.dumps({"format": "vlp-shards-1", "shards": shards}))
    loader = opened(Stream(shards=str(folder), drop_budget=0.5), 4)[0]
    assert loader.samples_per_epoch == 44
    keys([loader], 11)
    assert loader.ledger.by_reason().keys() == {"truncated tail"}
    assert loader.ledger.dropped == 4


def test_a_missing_shard_is_counted_as_unreadable(tmp_path: Path, make_shards: MakeShards) -> None:
    folder = make_shards(tmp_path, (20, 20))
    shards = [{"file": f"0000{i}.tar", "samples": 20, "bytes": 1, "sha256": ""} for i in range(3)]
    (folder / "manifest.json").write_text(json.dumps({"format": "vlp-shards-1", "shards": shards}))
    loader = opened(Stream(shards=str(folder), drop_budget=0.9), 4)[0]
    keys([loader], 15)
    assert loader.ledger.by_reason().keys() == {"unreadable shard"}
    assert loader.ledger.dropped == 20


def test_mixtures_hold_exact_shares_of_the_epoch(folder: Path, damaged: Path, tmp_path: Path) -> None:
    import shutil

    other = tmp_path / "other"
    shutil.copytree(folder, other)
    stream = Stream(mixture={str(folder): 3.0, str(other): 1.0}, epoch_samples=80, ids="")
    loader = opened(stream, 8)[0]
    assert loader.samples_per_epoch == 80
    seen = Counter(key for rows in keys([loader], 10) for key in rows)
    assert sum(seen.values()) == 80
    doubled = opened(dataclasses.replace(stream, mixture_by="factor", mixture={str(folder): 2.0, str(other): 1.0}), 73)
    assert set(Counter(k for rows in keys(doubled, 3) for k in rows).values()) == {3}


def test_a_state_of_another_stream_is_refused(folder: Path, damaged: Path) -> None:
    loaders = opened(Stream(shards=str(folder)), 8, 2)
    keys(loaders, 2)
    with pytest.raises(UserError, match="its global_batch was 8 and is 4"):
        opened(Stream(shards=str(folder)), 4, 1, states(loaders))
    with pytest.raises(UserError, match="its seed was 3 and is 4"):
        opened(Stream(shards=str(folder)), 8, 1, states(loaders), seed=4)
    with pytest.raises(UserError, match="its window"):
        opened(Stream(shards=str(folder), window=9), 8, 1, states(loaders))
    with pytest.raises(UserError, match="lacks rows of this rank"):
        opened(Stream(shards=str(folder)), 8, 1, states(loaders)[:1])
    keys(loaders[:1], 1)
    with pytest.raises(UserError, match="disagree on batch"):
        merge_states(states(loaders))
    with pytest.raises(UserError, match="format"):
        opened(Stream(shards=str(folder)), 8, 1, {"format": "x"})


def test_states_stay_small(damaged: Path) -> None:
    loader = opened(Stream(shards=str(damaged), drop_budget=0.5), 64)[0]
    keys([loader], 5)
    assert len(json.dumps(loader.state_dict())) < 2000


def test_bad_openings_are_refused(folder: Path) -> None:
    for stream, batch, size in (
        (Stream(shards=str(folder)), 9, 2),
        (Stream(), 8, 1),
        (Stream(shards=str(folder)), 0, 1),
    ):
        with pytest.raises(UserError):
            opened(stream, batch, size)


def test_foreign_shards_without_json(tmp_path: Path, write_tar: WriteTar, picture: Callable[[int], bytes]) -> None:
    write_tar(
        tmp_path / "a.tar",
        [(f"{i}.{e}", picture(i) if e == "png" else b"hi") for i in range(4) for e in ("png", "txt")],
    )
    write_tar(tmp_path / "b.tar", [("x.png", picture(9)), ("x.txt", b"good"), ("x.json", b"{broken")])
    batch: Batch = next(iter(opened(Stream(shards=str(tmp_path)), 5)[0]))
    assert sorted(batch.keys) == ["0", "1", "2", "3", "x"]
    assert next(iter(read_samples(ShardSet.open(str(tmp_path))))).captions == {"en": "hi"}
