"""The plan of a whole run against values computed by hand, and its memory against simulated ranks."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from tests.vlp.distributed.plan.test_plan import peak
from vlp.distributed.plan.cluster import Cluster, Failures, Links, Storage, read_cluster
from vlp.distributed.plan.cost import candidates
from vlp.distributed.plan.whole_run import Work, daly_hours, daly_interval, plan, report, setup_of
from vlp.errors import UserError
from vlp.losses._engine.tile_engine import EDGE

CLUSTER = Cluster(
    nodes=2,
    gpus=4,
    tflops=100.0,
    memory=80.0,
    cores=16,
    links=Links(inside=200.0, between=20.0),
    storage=Storage(read=1.0, write=2.0),
    failures=Failures(node_hours=1000.0, restart_minutes=6.0),
)
WORK = Work(
    samples=8_000_000,
    batch=8_000,
    width=512,
    forward=10e9,
    parameters=100_000_000,
    copies=3.0,
    saved=2.0,
    activations=10e6,
    chunk=0,
    pair_bytes=10_000.0,
    decode=2e-3,
)
CLUSTERS = Path(__file__).parents[4] / "slurm" / "clusters"


def test_the_numbers_are_those_of_paper_and_pencil() -> None:
    """1,000 pairs a GPU: 3 x 10 GFLOP x 1,000 at 100 TFLOP/s are 0.3 s. 800 MB of gradients pass in less than 0.2 s."""
    run = plan(WORK, CLUSTER)
    assert run.steps == 1000
    assert run.encode == pytest.approx(0.3)
    assert run.sync == 0
    assert run.step == pytest.approx(0.3 + run.loss)
    assert run.hours == pytest.approx(1000 * run.step / 3600)
    assert run.pairs_per_second == pytest.approx(8000 / run.step)
    assert run.bytes_per_second == pytest.approx(8000 / run.step * 10_000)
    assert run.requests_per_second == pytest.approx(run.bytes_per_second / 4_194_304)
    assert run.cores == pytest.approx(1000 / run.step * 2e-3)
    assert run.cores_there == 4
    assert run.checkpoint == 1.2e9  # weights and two moments in float32
    assert run.checkpoint_seconds == pytest.approx(0.6)
    chosen = next(row for row in run.strategies if row.name == run.strategy)
    assert run.memory == pytest.approx(1.6e9 + 10e9 + chosen.memory)
    assert run.gpu_hours == pytest.approx(8 * run.elapsed)


def test_gradients_that_do_not_fit_under_the_backward_pass_are_waited_for() -> None:
    """2 x 4 P / N x 7 bytes: 4 blocks from the other node of 4 GPUs, one for every GPU of a node, and 3 inside."""
    slow = dataclasses.replace(CLUSTER, links=Links(inside=200.0, between=1.0))
    block = 4 * 100_000_000 / 8
    sync = 2 * (6 * block / 200e9 + 1 * block / 1e9 + 7 * 3e-6)
    small = dataclasses.replace(WORK, forward=1e9)  # 0.03 s of encoding, 0.02 of them backwards
    assert plan(small, slow).sync == pytest.approx(sync - 0.02)


def test_weights_in_parts_take_less_memory_and_more_wire() -> None:
    """FSDP2 gathers weights twice and scatters gradients once; the copies of a hybrid add an all-reduce of a part."""
    slow = dataclasses.replace(CLUSTER, links=Links(inside=200.0, between=1.0))
    small = dataclasses.replace(WORK, forward=1e9)
    ddp, fsdp2, hybrid = (plan(dataclasses.replace(small, parallel=kind), slow) for kind in ("ddp", "fsdp2", "hybrid"))
    assert ddp.memory - fsdp2.memory == pytest.approx(1.6e9 * 7 / 8)
    assert ddp.memory - hybrid.memory == pytest.approx(1.6e9 * 3 / 4)
    assert fsdp2.sync + 0.02 == pytest.approx(1.5 * (ddp.sync + 0.02))
    inside = 3 * (3 * 100e6 / 200e9 + 3 * 3e-6)  # a quarter of 400 MB from each of three GPUs, three times
    across = 2 * (50e6 / 1e9 + 3e-6)  # half of a quarter from the other node, twice
    assert hybrid.sync + 0.02 == pytest.approx(inside + across)


def test_blocks_that_are_encoded_again_cost_a_forward_pass() -> None:
    assert plan(dataclasses.replace(WORK, recompute=True), CLUSTER).encode == pytest.approx(0.4)


def test_chunks_are_encoded_once_more_and_bound_the_activations() -> None:
    run = plan(dataclasses.replace(WORK, chunk=100), CLUSTER)
    assert run.encode == pytest.approx(0.4)
    assert run.memory < 3e9


def test_a_slow_storage_bounds_the_run() -> None:
    slow = dataclasses.replace(CLUSTER, storage=Storage(read=0.1, write=2.0))
    run = plan(WORK, slow)
    assert run.step == pytest.approx(8000 * 10_000 / 0.1e9)
    assert run.waiting == pytest.approx(run.step - 0.3 - run.loss)
    assert "storage bounds the run" in report(run, WORK, slow)


def test_the_interval_is_daly_s() -> None:
    """Young's sqrt(2 d M) is 600 s for d = 5 s and M = 10 h; Daly's corrections are below 1 %."""
    assert daly_interval(5.0, 36_000.0) == pytest.approx(600 * (1 + math.sqrt(5 / 72_000) / 3 + 5 / 72_000 / 9) - 5)
    assert daly_interval(80.0, 40.0) == 40.0


def test_no_other_interval_loses_less() -> None:
    dump, between, restart = 60.0, 4 * 3600.0, 600.0
    best = daly_interval(dump, between)
    least = daly_hours(100.0, dump, best, between, restart)
    for factor in (0.5, 0.8, 1.25, 2.0):
        assert daly_hours(100.0, dump, factor * best, between, restart) > least
    # what is lost: a checkpoint each interval, half an interval and a restart each failure, to first order
    first = 100.0 * (dump / best + (best / 2 + restart) / between)
    assert least - 100.0 == pytest.approx(first, rel=0.2)


def test_without_failures_only_checkpoints_are_lost() -> None:
    assert daly_hours(10.0, 1.0, 100.0, 1e12, 0.0) == pytest.approx(10.1, rel=1e-4)


EXAMPLES = [(8, 4096, 512), (512, 176, 768), (4096, 40, 1280)]  # GPUs, pairs a GPU, width: docs/training.md


@pytest.mark.slow
@pytest.mark.parametrize("size,pairs,width", EXAMPLES)
def test_the_memory_of_the_examples_is_that_of_a_simulated_rank(size: int, pairs: int, width: int) -> None:
    """The closed form with a CPU's tiles, which is where ranks are simulated; a GPU's are larger."""
    cluster = read_cluster(CLUSTERS / f"{size}.toml")
    work = dataclasses.replace(WORK, batch=size * pairs, width=width)
    rows = candidates(dataclasses.replace(setup_of(work, cluster), edge=EDGE["cpu"]))
    chosen = plan(work, cluster).strategy
    measured = peak(chosen, size, pairs=pairs, width=width, dtype=torch.bfloat16)
    assert next(row.memory for row in rows if row.name == chosen) == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("between = 50", "", '"links.between" is missing; a cluster file has to say it'),
        ("[links]\ninside = 400\nbetween = 50", "", '"links" is missing; a cluster file has to say it'),
        ("nodes = 1", "nodes = 0", '"nodes" is 0, but it should be 1 or more'),
        ("inside = 400", "insied = 400", 'unknown key "links.insied"; did you mean "inside"'),
        ("nodes = 1", "nodes", "is not valid TOML"),
    ],
)
def test_a_cluster_file_that_lacks_something_is_one_sentence(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    text = (CLUSTERS / "8.toml").read_text()
    assert old in text
    (tmp_path / "mine.toml").write_text(text.replace(old, new))
    with pytest.raises(UserError, match=r"mine\.toml") as caught:
        read_cluster(tmp_path / "mine.toml")
    assert sentence in str(caught.value)
    with pytest.raises(UserError, match="there is no cluster file"):
        read_cluster(tmp_path / "none.toml")
