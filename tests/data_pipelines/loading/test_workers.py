"""Worker processes: the same batches as without them, whoever dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from data_pipelines.ledger import DropBudgetExceeded
from data_pipelines.loading.loader import Loader
from data_pipelines.settings import Captions, Decoding, Workers
from data_pipelines.stream import Stream
from vlp.errors import UserError
from vlp.models.image_transform import RandomCrop
from vlp.models.tokenizer import Bpe

MakeShards = Callable[..., Path]
BROKEN = frozenset({3, 8, 40})
pytestmark = pytest.mark.timeout(120)


def tokenizer(texts: list[str]) -> Tensor:
    rows = [[ord(c) % 250 + 1 for c in t] for t in texts]
    longest = max(map(len, rows))
    return torch.tensor([r + [0] * (longest - len(r)) for r in rows], dtype=torch.int64)


def dying_tokenizer(texts: list[str]) -> Tensor:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def failing_tokenizer(texts: list[str]) -> Tensor:
    raise ValueError("no such word")


@pytest.fixture(scope="session")
def stream(tmp_path_factory: pytest.TempPathFactory, make_shards: MakeShards) -> Stream:
    folder = make_shards(tmp_path_factory.mktemp("workers"), (20, 3, 37, 11), BROKEN)
    captions = {"txt": 1.0, "en": 1.0}
    workers = Workers(start_method="fork", prefetch=2)
    return Stream(shards=str(folder), captions=Captions(captions), drop_budget=1.0, workers=workers)


def by(stream: Stream, count: int, **more: Any) -> Stream:
    """The stream, made by `count` workers."""
    return replace(stream, workers=replace(stream.workers, count=count, **more))


def opened(stream: Stream, batch: int = 12, rank: int = 0, size: int = 1, **more: object) -> Loader:
    transform = RandomCrop(size=8, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    given = {"transform": transform, "tokenizer": tokenizer, **more}
    return stream.open(global_batch=batch, rank=rank, size=size, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(("workers", "batch"), [(1, 12), (2, 12), (3, 10), (4, 3)])
def test_workers_change_nothing(stream: Stream, workers: int, batch: int) -> None:
    """Whole batches, through epochs, with broken samples on the way; more workers than rows too."""
    one, many = opened(stream, batch), opened(by(stream, workers), batch)
    for _ in range(15):
        a, b = next(iter(one)), next(iter(many))
        assert a.keys == b.keys
        assert torch.equal(a.image, b.image)
        assert torch.equal(a.text, b.text)
        assert torch.equal(a.ids, b.ids)  # type: ignore[arg-type]
        assert one.state_dict() == many.state_dict()
    many.close()


def test_resume_on_other_ranks_and_workers(stream: Stream) -> None:
    """Prefetched batches that were not handed out are not part of the position."""
    one = opened(stream)
    want = [next(iter(one)).keys for _ in range(12)]
    got, states = [], None
    for (size, workers), steps in zip([(2, 2), (1, 3), (3, 0), (4, 1)], [4, 3, 4, 1], strict=True):
        loaders = [opened(by(stream, workers), 12, r, size, state=states) for r in range(size)]
        got += [sum((next(iter(loader)).keys for loader in loaders), ()) for _ in range(steps)]
        states = [loader.state_dict() for loader in loaders]
        for loader in loaders:
            loader.close()
    assert got == want


def test_a_killed_worker_is_replaced_and_nothing_is_lost_or_repeated(stream: Stream) -> None:
    one, many = opened(stream), opened(by(stream, 3))
    for step in range(20):
        assert next(iter(one)).keys == next(iter(many)).keys
        if step in (2, 7, 12):  # further apart than the batches that are made ahead, so that each death is noticed
            assert many._pool is not None
            os.kill(many._pool._workers[step % 3].process.pid or 0, signal.SIGKILL)
    assert many.ledger.restarts == 3
    many.close()


def test_workers_that_always_die_end_the_run_with_a_reason(stream: Stream) -> None:
    loader = opened(by(stream, 1), tokenizer=dying_tokenizer)
    with pytest.raises(RuntimeError, match=r"worker 0 died 4 times in the same batch \(exit code -9"):
        next(iter(loader))


def test_errors_of_workers_reach_the_trainer(stream: Stream) -> None:
    with pytest.raises(RuntimeError, match="no such word"):
        next(iter(opened(by(stream, 2), tokenizer=failing_tokenizer)))
    with pytest.raises(DropBudgetExceeded, match="nothing at all"):
        next(iter(opened(replace(by(stream, 2), decoding=Decoding(min_side=99)))))


def test_batches_that_are_kept_are_not_overwritten(stream: Stream) -> None:
    one, many = opened(stream), opened(by(stream, 2, prefetch=1))
    kept = [next(iter(many)) for _ in range(9)]
    for batch in kept:
        assert torch.equal(batch.image, next(iter(one)).image)
    many.close()


def test_workers_end_when_the_loader_is_gone(stream: Stream) -> None:
    loader = opened(by(stream, 2))
    next(iter(loader))
    assert loader._pool is not None
    processes = [w.process for w in loader._pool._workers]
    del loader
    deadline = time.monotonic() + 20
    while any(p.is_alive() for p in processes) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(p.is_alive() for p in processes)


def test_closing_keeps_the_position(stream: Stream) -> None:
    one, many = opened(stream), opened(by(stream, 2))
    for _ in range(3):
        assert next(iter(one)).keys == next(iter(many)).keys
        many.close()


@pytest.mark.slow
def test_workers_from_a_fork_server(stream: Stream) -> None:
    bpe = Bpe(vocab=300).train([f"caption {n}" for n in range(100)])  # tests are not importable in a fork server
    many = opened(by(stream, 2, start_method="forkserver"), tokenizer=bpe)
    one = opened(stream, tokenizer=bpe)
    for _ in range(3):
        assert next(iter(one)).keys == next(iter(many)).keys
    many.close()
    unpicklable = opened(by(stream, 1, start_method="forkserver"), tokenizer=lambda texts: tokenizer([*texts]))
    with pytest.raises(UserError, match="cannot be sent to worker processes"):
        next(iter(unpicklable))


RUN = """
import sys, os
from data_pipelines.settings import Workers
from data_pipelines.stream import Stream
from vlp.models.image_transform import RandomCrop
import torch
tokenizer = lambda texts: torch.ones(len(texts), 2, dtype=torch.int64)
stream = Stream(shards=sys.argv[1], workers=Workers(count=2, start_method="fork"), drop_budget=1.0)
loader = stream.open(transform=RandomCrop(size=8), tokenizer=tokenizer, global_batch=12)
for step, batch in enumerate(loader):
    pids = [w.process.pid for w in loader._pool._workers]
    print(*pids, flush=True)
"""


@pytest.mark.slow
def test_workers_end_when_the_whole_run_is_killed(stream: Stream, tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(RUN)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    run = subprocess.Popen([sys.executable, str(script), stream.shards], stdout=subprocess.PIPE, env=environment)
    assert run.stdout is not None
    pids = [int(p) for p in run.stdout.readline().split()]
    assert len(pids) == 2
    run.kill()
    run.wait()
    deadline = time.monotonic() + 30
    while any(alive(p) for p in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(p) for p in pids)


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
