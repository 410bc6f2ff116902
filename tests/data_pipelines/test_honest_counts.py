"""What the ledger says against what is truly missing: cut, deleted and replaced shards, with and without a manifest."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from data_pipelines.ledger import DropBudgetExceeded, Ledger
from data_pipelines.loading.loader import Loader
from data_pipelines.loading.position import check_losses, merge_states
from data_pipelines.remote.fetch import LocalFile
from data_pipelines.settings import Workers
from data_pipelines.shards.manifest import Manifest, ShardRecord
from data_pipelines.shards.read_samples import read_samples
from data_pipelines.shards.shard_set import ShardSet
from data_pipelines.shards.tar_index import build as index_of
from data_pipelines.stream import Stream
from vlp.errors import UserError
from vlp.models.image_transform import RandomCrop

MakeShards = Callable[..., Path]
CROP = RandomCrop(size=8, scale=(1.0, 1.0), ratio=(1.0, 1.0))


def tokenizer(texts: list[str]) -> torch.Tensor:
    return torch.tensor([[len(text)] for text in texts])


def opened(folder: Path | str, *, batch: int = 10, size: int = 1, state: Any = None, **more: Any) -> list[Loader]:
    stream = Stream(shards=str(folder), **{"drop_budget": 1.0, **more})
    given = {"transform": CROP, "tokenizer": tokenizer, "global_batch": batch, "size": size, "seed": 3, "state": state}
    loaders = [stream.open(rank=rank, **given) for rank in range(size)]
    return [loader for loader in loaders if isinstance(loader, Loader)]


def epochs(loaders: list[Loader], count: int) -> Ledger:
    """The ledger of all ranks after some epochs."""
    for loader in loaders:
        for _ in range(count * loader.batches_per_epoch):
            next(iter(loader))
    total = Ledger()
    for loader in loaders:
        total.merge(loader.ledger)
        loader.close()
    return total


def cut(path: Path, share: float) -> int:
    """Cut a tar to a share of its bytes; how many samples are lost."""
    before = len(index_of(LocalFile(str(path))))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return before - len(index_of(LocalFile(str(path))))


def listed(folder: Path) -> Path:
    """A true manifest beside the shards."""
    rows = []
    for path in sorted(folder.glob("*.tar")):
        data = path.read_bytes()
        count = len(index_of(LocalFile(str(path))))
        rows.append(ShardRecord(path.name, count, len(data), hashlib.sha256(data).hexdigest()))
    Manifest("set", tuple(rows)).write(folder)
    return folder


@pytest.mark.parametrize("evidence", ["none", "stats", "parquet", "index", "cached", "manifest"])
def test_a_cut_shard_counts_what_it_lacks(tmp_path: Path, make_shards: MakeShards, evidence: str) -> None:
    folder = make_shards(tmp_path, [100] * 9)
    if evidence == "manifest":
        listed(folder)
    if evidence == "cached":
        opened(folder)
    for row in (2, 5):
        path = folder / f"{row:05d}.tar"
        if evidence == "stats":
            (folder / f"{row:05d}_stats.json").write_text(json.dumps({"count": 120, "successes": 100}))
        if evidence == "parquet":
            pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
            table = pa.table({"key": list(range(120)), "status": ["success"] * 100 + ["failed_to_download"] * 20})
            pq.write_table(table, folder / f"{row:05d}.parquet")
        if evidence == "index":
            index_of(LocalFile(str(path))).save(path.with_suffix(".index"))
    lost = sum(cut(folder / f"{row:05d}.tar", share) for row, share in ((2, 0.1), (5, 0.5)))
    ledger = epochs(opened(folder), 2)
    assert lost > 120
    assert ledger.lost == 2 * lost
    assert ("cut, unknown loss" in ledger.by_reason()) == (evidence == "none")
    assert {Path(shard).name for _, shard in ledger.drops} == {"00002.tar", "00005.tar"}
    read = Ledger()
    assert len(list(read_samples(ShardSet.open(str(folder)), skip=read))) == 900 - lost
    assert read.lost == lost or evidence == "none"


def test_the_loss_of_a_cut_shard_counts_against_the_budget_at_once(tmp_path: Path, make_shards: MakeShards) -> None:
    folder = make_shards(tmp_path, [100] * 9)
    lost = cut(folder / "00004.tar", 0.1)
    with pytest.raises(DropBudgetExceeded, match=rf"{lost / 900:.2%} of the samples were lost(.|\n)*cut, unknown loss"):
        opened(folder, drop_budget=0.05)
    opened(folder, drop_budget=0.11)


def test_a_stretch_of_damage_counts_as_many_samples_as_it_has_bytes(tmp_path: Path, make_shards: MakeShards) -> None:
    folder = make_shards(tmp_path, [100] * 4)
    data = bytearray((folder / "00001.tar").read_bytes())
    start = data.index(b"00120.png")
    data[start : data.index(b"00150.png")] = bytes(data.index(b"00150.png") - start)
    (folder / "00001.tar").write_bytes(data)
    assert opened(folder)[0].ledger.by_reason() == {"corrupt tar": 30}


@pytest.mark.parametrize("where", ["middle", "end"])
def test_zeros_longer_than_a_tar_s_end_are_no_end(tmp_path: Path, make_shards: MakeShards, where: str) -> None:
    """A stretch of zeros up to a place where a joined tar could begin, and one up to the end of the file."""
    folder = make_shards(tmp_path, [100] * 4)
    data = bytearray((folder / "00001.tar").read_bytes())
    start = data.index(b"00120.png")
    stop = next(at for at in range(start, len(data), 10240 - start % 10240) if at - start > 11_264)
    stop = len(data) if where == "end" else -(-stop // 10240) * 10240
    before = data[stop : stop + 100]
    data[start:stop] = bytes(stop - start)
    (folder / "00001.tar").write_bytes(data)
    ledger = opened(folder)[0].ledger
    assert before[:1] != b"\0" or where == "end"
    assert ledger.lost >= (stop - start) // 3072 if where == "middle" else "cut, unknown loss" in ledger.by_reason()


@pytest.mark.parametrize("layout", ["alone", "ranks", "workers", "drop"])
def test_a_deleted_shard_counts_its_samples_once_an_epoch(tmp_path: Path, make_shards: MakeShards, layout: str) -> None:
    folder = listed(make_shards(tmp_path, [50] * 20 + [8]))
    (folder / "00003.tar").unlink()
    more: dict[str, Any] = {"size": 2} if layout == "ranks" else {}
    if layout == "workers":
        more["workers"] = Workers(count=2, start_method="fork")
    if layout == "drop":
        more |= {"last": "drop", "batch": 9}
    ledger = epochs(opened(folder, drop_budget=0.05, lanes=10, window=16, **more), 3)
    assert ledger.by_reason() == {"unreadable shard": 150}
    assert ledger.tried == 3 * 1008


def test_a_loss_below_the_budget_never_ends_the_run_wherever_it_lies(tmp_path: Path, make_shards: MakeShards) -> None:
    folder = listed(make_shards(tmp_path, [100] * 12))
    (folder / "00003.tar").unlink()
    for seed in range(4):
        stream = Stream(shards=str(folder), drop_budget=0.085, lanes=1 + seed)
        for size in (1, 4):
            loaders = [
                stream.open(transform=CROP, tokenizer=tokenizer, global_batch=12, rank=r, size=size, seed=seed)
                for r in range(size)
            ]
            assert epochs(loaders, 2).lost == 200  # type: ignore[arg-type]
    with pytest.raises(DropBudgetExceeded, match=r"8.33% of the samples were lost"):
        epochs(opened(folder, drop_budget=0.08), 1)


def test_spread_losses_end_the_run_long_before_its_epoch_does(tmp_path: Path, make_shards: MakeShards) -> None:
    folder = make_shards(tmp_path, [100] * 40, frozenset(n for n in range(4000) if n % 2))
    for size in (1, 4):
        loader = opened(folder, drop_budget=0.01, size=size, batch=40)[-1]
        with pytest.raises(DropBudgetExceeded, match="undecodable picture"):
            epochs([loader], 1)
        assert loader.ledger.tried < 1100


def test_what_no_rank_loses_by_itself_all_of_them_may(tmp_path: Path, make_shards: MakeShards) -> None:
    folder = make_shards(tmp_path, [100] * 12, frozenset(n for n in range(1200) if n % 50 == 0))
    loaders = opened(folder, drop_budget=0.015, size=4, batch=12)
    epochs(loaders, 1)  # each lost 6 of the 18 that all may lose
    merged = merge_states([json.loads(json.dumps(loader.state_dict())) for loader in loaders])
    with pytest.raises(DropBudgetExceeded, match=r"2\.00% of the samples were lost, but drop_budget allows 1\.50%"):
        check_losses({**merged, "epoch": 0}, 0.015)
    check_losses({**merged, "epoch": 0}, 0.021)


def test_random_damage_is_counted_to_the_sample(tmp_path: Path, make_shards: MakeShards) -> None:
    """Twelve sets, each with a manifest: what an epoch delivers and what it loses is all that there was."""
    for seed in range(12):
        rng = random.Random(seed)
        counts = [rng.randint(5, 60) for _ in range(6)]
        folder = listed(make_shards(tmp_path / str(seed), counts))
        for path in rng.sample(sorted(folder.glob("*.tar")), 3):
            data = bytearray(path.read_bytes())
            kind = rng.choice(["cut", "zeros", "gone", "empty", "noise"])
            start = rng.randrange(len(data))
            if kind == "cut":
                path.write_bytes(data[:start])
            elif kind == "gone":
                path.unlink()
            elif kind == "empty":
                path.write_bytes(b"")
            else:
                stop = min(len(data), start + rng.randrange(1, 30_000))
                data[start:stop] = bytes(stop - start) if kind == "zeros" else rng.randbytes(stop - start)
                path.write_bytes(data)
        loader = opened(folder, batch=7)[0]
        seen = {key for _ in range(loader.batches_per_epoch) for key in next(iter(loader)).keys}
        assert len(seen) + loader.ledger.lost == sum(counts), seed


@pytest.mark.parametrize("count", [31, 60])
@pytest.mark.parametrize("manifest", [True, False])
def test_a_replaced_shard_is_a_reason_and_a_resumed_run_names_it(
    tmp_path: Path, make_shards: MakeShards, manifest: bool, count: int
) -> None:
    folder, other = (
        make_shards(tmp_path / "a", [30] * 5),
        make_shards(tmp_path / "b", [30, 30, count]),
    )  # tars of the same size, and not
    if manifest:
        listed(folder)
    loader = opened(folder)[0]
    next(iter(loader))
    state = json.loads(json.dumps([loader.state_dict()]))
    (folder / "00002.tar").write_bytes((other / "00002.tar").read_bytes())
    with pytest.raises(UserError, match=r"cannot resume: .*00002\.tar was replaced or damaged"):
        epochs(opened(folder, state=state), 1)
    if manifest:
        assert epochs(opened(folder), 1).by_reason() == {"changed shard": 30}
        opened(folder, state=state, verify="none")


def test_without_a_manifest_the_same_count_does_not_hide_another_shard(tmp_path: Path, make_shards: MakeShards) -> None:
    folder, other = make_shards(tmp_path / "a", [30] * 5), make_shards(tmp_path / "b", [30] * 6)
    state = [opened(folder)[0].state_dict()]
    (folder / "00002.tar").write_bytes((other / "00003.tar").read_bytes())
    with pytest.raises(UserError, match=r"00002\.tar was replaced or damaged; restore it"):
        opened(folder, state=state)
    (folder / "00002.tar").unlink()
    with pytest.raises(UserError, match=r"shard number 3 of 5, after .*00001\.tar, is missing"):
        opened(folder, state=state)


def test_checksums_are_compared_on_request(tmp_path: Path, make_shards: MakeShards) -> None:
    folder = listed(make_shards(tmp_path, [30] * 3))
    state = [opened(folder)[0].state_dict()]
    data = bytearray((folder / "00001.tar").read_bytes())
    at = data.index(b"caption 45")
    data[at : at + 7] = b"CAPTION"
    (folder / "00001.tar").write_bytes(data)
    assert epochs(opened(folder, state=state), 1).lost == 0
    assert epochs(opened(folder, verify="sha256"), 1).by_reason() == {"changed shard": 30}
    with pytest.raises(UserError, match=r"00001\.tar was replaced or damaged .* sha256"):
        opened(folder, state=state, verify="sha256")


def test_a_state_without_fingerprints_is_taken(tmp_path: Path, make_shards: MakeShards) -> None:
    folder = make_shards(tmp_path, [30] * 3)
    state = opened(folder)[0].state_dict()
    del state["prints"], state["ledger"]["again"]
    assert opened(folder, state=[state])[0].ledger.dropped == 0


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"\x1f\x8b\x08" + bytes(900), r"is compressed \(gzip\).*gunzip"),
        (b"<!DOCTYPE html><title>Log in</title>" * 90, "is no tar: it begins with '<!DOCTYPE html>"),
    ],
)
def test_what_is_no_tar_has_its_own_sentence(tmp_path: Path, data: bytes, sentence: str) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(UserError, match=sentence):
        opened(tmp_path)


def test_an_empty_shard_among_others_is_counted_as_an_average_one(tmp_path: Path, make_shards: MakeShards) -> None:
    folder = make_shards(tmp_path, [30] * 4)
    (folder / "00001.tar").write_bytes(b"")
    assert opened(folder)[0].ledger.by_reason() == {"cut, unknown loss": 30}
