"""Every way of laying a run out on ranks gives the curve of one process: same seed, same global batch."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import engine_cases
import gloo_ranks
import pytest
import torch

from vlp.distributed.plan.cost import Setup, grid
from vlp.distributed.sharding import mesh_of
from vlp.distributed.world import World
from vlp.errors import UserError
from vlp.training.optimizers.lion import Lion
from vlp.training.optimizers.muon import Muon

TOLERANCE = {"fp64": 1e-12, "fp32": 1e-5, "bf16": 2e-2, "fp16": 2e-3}
LAYOUT = ("parallel", "chunk", "recompute", "compile", "negatives")  # what changes nothing that one process computes
Cases = dict[str, dict[str, Any]]

QUICK: Cases = {
    "ddp, cached, recompute": {"parallel": "ddp", "chunk": 3, "recompute": True},
    "fsdp2, cached, recompute": {"parallel": "fsdp2", "chunk": 3, "recompute": True},
    "fsdp2, batch norms, recompute, muon": {
        "parallel": "fsdp2",
        "recompute": True,
        "norm": "batch",
        "optimizer": Muon(),
    },
    "ddp, cached, momentum teacher": {"parallel": "ddp", "chunk": 3, "teacher": 0.9},
    "fsdp2, momentum teacher": {"parallel": "fsdp2", "teacher": 0.9},
    "fsdp2, cached, locked pictures, fp16, bf16 features": {
        "parallel": "fsdp2",
        "chunk": 3,
        "lock": True,
        "precision": "fp16",
        "features": "bf16",
    },
    "fsdp2, cached, bf16, own weights": {"parallel": "fsdp2", "chunk": 3, "precision": "bf16", "keeping": True},
}


def every(kinds: tuple[str, ...]) -> Cases:
    """The whole table of docs/training.md, and each optimizer, schedule of negatives and batch norms once."""
    table: Cases = {
        f"{kind}, {'cached' if chunk else 'whole'}, {'recompute' if again else 'kept'}, {precision}": {
            "parallel": kind,
            "chunk": chunk,
            "recompute": again,
            "precision": precision,
        }
        for kind, chunk, again, precision in product(kinds, (0, 3), (False, True), TOLERANCE)
    }
    for kind in kinds:
        table[f"{kind}, muon"] = {"parallel": kind, "optimizer": Muon()}
        table[f"{kind}, lion, cached"] = {"parallel": kind, "optimizer": Lion(), "chunk": 3}
        table[f"{kind}, batch norms"] = {"parallel": kind, "norm": "batch"}
        table[f"{kind}, batch norms, bf16"] = {"parallel": kind, "norm": "batch", "precision": "bf16"}
        table[f"{kind}, locked pictures"] = {"parallel": kind, "lock": True}
        table[f"{kind}, locked pictures, cached"] = {"parallel": kind, "lock": True, "chunk": 3}
        table[f"{kind}, own weights"] = {"parallel": kind, "keeping": True}
        table[f"{kind}, own weights, cached"] = {"parallel": kind, "keeping": True, "chunk": 3}
        table[f"{kind}, ring"] = {"parallel": kind, "negatives": "ring"}
        table[f"{kind}, no average, no clip"] = {"parallel": kind, "ema": 0.0, "clip": 0.0}
    return table


def wrong(folder: Path, cases: Cases, curves: dict[str, Any]) -> list[str]:
    """Each case whose curve is not that of one process."""
    alone: dict[str, list[Any]] = {}
    lines = []
    for name, case in cases.items():
        settings = {k: v for k, v in case.items() if k not in LAYOUT}
        if str(settings) not in alone:
            alone[str(settings)] = engine_cases.curve(World.alone("cpu"), folder / f"one{len(alone)}", **settings)
        expected, actual = alone[str(settings)], curves[name]
        assert [a is None for a in actual] == [e is None for e in expected]  # fp16 skips the same steps
        assert len(expected) == 2 * engine_cases.STEPS + 1
        halves = [slice(0, engine_cases.STEPS), slice(engine_cases.STEPS, -1)]
        losses, norms = ([(a, e) for a, e in zip(actual[h], expected[h], strict=True) if e is not None] for h in halves)
        assert losses[-1][1] < 0.97 * losses[0][1]  # a curve, not a line
        assert max(norm for _, norm in norms) > 1.0  # what clips
        error, norm_error = (max(abs(a / e - 1) for a, e in pairs) for pairs in (losses, norms))
        limit, average = TOLERANCE[case.get("precision", "fp64")], abs(actual[-1] / expected[-1] - 1)
        if not (max(error, norm_error / 10) < limit and average < max(10 * limit, 1e-6)):  # a float32 model embeds
            errors = f"{error:.1e}, of the gradient norm {norm_error:.1e}, of the average {average:.1e}"
            lines.append(f"{name}: relative error {errors}")
    return lines


KEEPING = {"keeping": True, "teacher": 0.9}  # and taught by the mean of its own weights, which goes on too
PARTS = ((2, "ddp", 0), (3, "fsdp2", 3), (4, "ddp", 0))
CHAIN = [(last, {**KEEPING, "parallel": kind, "chunk": chunk}) for last, kind, chunk in PARTS]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """(folder, what two ranks gave back): the curves of QUICK, a run of three parts, and what FSDP2 keeps on each."""
    folder = tmp_path_factory.mktemp("two")
    return folder, gloo_ranks.run(2, engine_cases.everything, folder, QUICK, CHAIN, folder=folder)


Two = tuple[Path, list[dict[str, Any]]]


def test_two_ranks_have_the_curve_of_one_process(two: Two) -> None:
    folder, (answers, _) = two
    assert not wrong(folder, QUICK, answers["curves"])


def test_a_run_goes_on_under_another_parallel_and_on_another_number_of_ranks(two: Two) -> None:
    """DDP on two ranks, FSDP2, DDP, and one process: one curve, that of a run which nothing interrupted.

    Its objective has weights of its own, and keeps numbers of samples and of the run.
    """
    folder, _ = two
    whole = engine_cases.curve(World.alone("cpu"), folder / "uninterrupted", **KEEPING)
    ended = engine_cases.curve(World.alone("cpu"), folder / "parts", **KEEPING)
    assert ended[:-1] == pytest.approx(whole[:-1], rel=1e-12)
    assert ended[-1] == pytest.approx(whole[-1], rel=1e-6)  # what the average embeds, in float32


def test_ranks_share_weights_optimizer_and_average_out(two: Two) -> None:
    for answer in two[1]:
        weights, optimizer, average, scale_is_whole, best_is_the_average = answer["kept"]
        assert weights == pytest.approx(0.5, abs=0.1)
        assert optimizer == pytest.approx(0.5, abs=0.1)
        assert average == pytest.approx(0.5, abs=0.1)
        assert scale_is_whole
        assert best_is_the_average


def test_the_run_reports_the_bytes_of_the_plan(two: Two) -> None:
    """What each row of metrics.jsonl says is what `vlp plan` counts, by float64 and by bf16 features."""
    folder, _ = two
    for name, element in (("ddp, cached, recompute", 8), ("fsdp2, cached, locked pictures, fp16, bf16 features", 2)):
        rows = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
        setup = Setup(ranks=2, pairs=engine_cases.BATCH // 2, width=14, per_node=2, element=element)
        assert {row["loss_bytes_received"] for row in rows} == {grid(setup, 1, 2).received}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "share"), [("fsdp2", 0.25), ("hybrid", 0.5)])
def test_hybrid_shares_weights_inside_a_node_only(tmp_path: Path, kind: str, share: float) -> None:
    kept = gloo_ranks.run(4, engine_cases.what_ranks_keep, kind, folder=tmp_path, per_node=2)
    for rank in range(4):
        mean = sum(kept[r][0] for r in (rank // 2 * 2, rank // 2 * 2 + 1)) / 2  # parts are uneven
        assert mean == pytest.approx(share, abs=0.1)


def test_nodes_of_unequal_size_are_no_hybrid() -> None:
    three = World(0, 3, 0, 2, torch.device("cpu"), (0, 0, 1))
    with pytest.raises(UserError, match=r"training.parallel is hybrid, but this run's nodes have 1 to 2 ranks"):
        mesh_of(three, hybrid=True)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("ranks", "kinds"),
    [(2, ("ddp", "fsdp2")), (4, ("ddp", "fsdp2", "hybrid"))],
    ids=["2 ranks", "4 ranks on 2 nodes"],
)
def test_every_combination_has_the_curve_of_one_process(tmp_path: Path, ranks: int, kinds: tuple[str, ...]) -> None:
    cases = every(kinds)
    run = gloo_ranks.run(ranks, engine_cases.curves, tmp_path, cases, folder=tmp_path, per_node=2, timeout=1000)
    assert not wrong(tmp_path, cases, run[0])


@pytest.mark.slow
def test_a_hybrid_run_goes_on_as_any_other(tmp_path: Path) -> None:
    """Hybrid on two nodes of two, FSDP2, hybrid with chunks, DDP, and one process."""
    whole = engine_cases.curve(World.alone("cpu"), tmp_path / "whole")
    chain = [(1, "hybrid", 0), (2, "fsdp2", 0), (3, "hybrid", 3), (4, "ddp", 3)]
    parts = [(last, {"parallel": kind, "chunk": chunk}) for last, kind, chunk in chain]
    gloo_ranks.run(4, engine_cases.parts_of_five, tmp_path / "parts", parts, folder=tmp_path, per_node=2)
    assert engine_cases.curve(World.alone("cpu"), tmp_path / "parts")[:-1] == pytest.approx(whole[:-1], rel=1e-12)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_towers_of_open_clip_timm_and_transformers_have_the_curve_of_one_process(tmp_path: Path) -> None:
    layouts = ({"parallel": "ddp", "recompute": True}, {"parallel": "fsdp2", "recompute": True, "chunk": 3})
    precisions = ("fp64", "bf16")
    cases: Cases = {
        f"{towers}, {layout['parallel']}, {precision}": {"towers": towers, "precision": precision, **layout}
        for towers, layout, precision in product(("open_clip", "libraries", "adapted"), layouts, precisions)
    }
    run = gloo_ranks.run(2, engine_cases.curves, tmp_path, cases, folder=tmp_path, timeout=800)
    assert not wrong(tmp_path, cases, run[0])


COMPILED: Cases = {
    "ddp, compiled": {"parallel": "ddp", "precision": "fp32", "compile": True},
    "ddp, compiled, cached": {"parallel": "ddp", "precision": "fp32", "compile": True, "chunk": 4},
    "fsdp2, compiled, recompute": {"parallel": "fsdp2", "precision": "fp32", "compile": True, "recompute": True},
    "fsdp2, compiled, batch norms": {"parallel": "fsdp2", "precision": "fp32", "compile": True, "norm": "batch"},
}


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_compiled_towers_have_the_curve_of_one_process_that_is_not(tmp_path: Path) -> None:
    run = gloo_ranks.run(2, engine_cases.curves, tmp_path, COMPILED, folder=tmp_path, timeout=1400)
    assert not wrong(tmp_path, COMPILED, run[0])
