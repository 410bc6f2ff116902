"""The cost model against counted collectives and simulated memory, and the plan it makes."""

import dataclasses
import json
from dataclasses import replace

import counting_cases
import gloo_ranks
import pytest
import torch

from vlp.distributed.mesh import Mesh
from vlp.distributed.plan import cost
from vlp.distributed.plan.table import main
from vlp.distributed.strategies.parse import read
from vlp.errors import UserError
from vlp.losses._engine.tile_engine import EDGE

CASES = ((6, 3, False), (8, 4, True), (12, 4, True), (16, 4, True))
SLOW = [pytest.param(*case, marks=pytest.mark.slow) for case in CASES]


@pytest.mark.parametrize("size,per_node,peers", [(4, 2, False), *SLOW])
def test_bytes_are_what_the_collectives_move(size, per_node, peers, tmp_path):
    answers = gloo_ranks.run(size, counting_cases.counted_bytes, peers, folder=tmp_path, per_node=per_node, timeout=280)
    for measured in answers:
        for name, counted, predicted in measured:
            # all-reduces of a few bytes are counted in whole bytes
            assert counted == pytest.approx(predicted, abs=8), name


def test_earlier_pairs_cost_what_their_keys_do():
    """In units of F D, F = (R + C - 2) b: InfoNCE 2, MoCo 2 and its keys, ALBEF 4 and its keys; the bank itself 0."""
    grid = read("grid:3x4", size=12, per_node=12)
    for batch, units in ((False, 2), (True, 4)):
        setup = cost.Setup(ranks=12, pairs=16, width=24, per_node=12, batch=batch, guide=24 * batch, statistics=0)
        ways = [replace(setup, way="rows", known=("columns",)), replace(setup, way="columns", known=("rows",))]
        small = 2 * (cost.everyone(setup) + cost.small(setup, cost.AHEAD)).received
        unit = (3 + 4 - 2) * 16 * 24 * 4
        assert sum(cost.predicted(way, grid).received for way in ways) - small == units * unit
        assert cost.pushed(setup, grid, parts=True).received == unit


def peak(negatives, size, **shape):
    """The simulated peak in a process of its own, which has a process group of its own."""
    here, there = gloo_ranks.CONTEXT.Pipe(duplex=False)
    arguments = (there, negatives, size)
    process = gloo_ranks.CONTEXT.Process(target=counting_cases.simulate, args=arguments, kwargs=shape, daemon=True)
    process.start()
    there.close()
    assert here.poll(timeout=280)
    return here.recv()


QUICK = [(negatives, 64) for negatives in ("grid:8x8", "ring")]
LONG = [("open_clip", 64), ("grid:64x1", 64), ("grid:32x32", 1024), ("open_clip", 1024), ("grid:64x64", 4096)]


@pytest.mark.parametrize("negatives,size", [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in LONG)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_memory_is_what_a_simulated_rank_of_thousands_holds(negatives, size, dtype):
    pairs, width = 64, 512
    measured = peak(negatives, size, pairs=pairs, width=width, dtype=dtype)
    setup = cost.Setup(ranks=size, pairs=pairs, width=width, element=dtype.itemsize, edge=EDGE["cpu"])
    rows = {row.name: row.memory for row in (*cost.candidates(setup), *cost.open_clip(setup))}
    predicted = rows[negatives if negatives != "open_clip" else "open_clip local_loss gather_with_grad"]
    assert predicted == pytest.approx(measured, rel=0.1)


def test_rows_of_the_mesh_lie_inside_nodes_whatever_the_numbering():
    round_robin = (0, 1, 0, 1, 0, 1, 0, 1)  # as srun --distribution=cyclic numbers them
    mesh = Mesh.of(round_robin, 2, 4)
    assert [{round_robin[rank] for rank in row} for row in mesh.ranks] == [{0}, {1}]
    assert sorted(rank for row in mesh.ranks for rank in row) == list(range(8))
    assert all(mesh.ranks[i][j] == rank for rank in range(8) for i, j in [mesh.place(rank)])
    with pytest.raises(UserError, match="6 places and the world has 8"):
        Mesh.of(round_robin, 2, 3)


@pytest.mark.parametrize("size,per_node", [(1, 1), (4, 4), (8, 8), (64, 8), (1024, 8), (7, 7)])
def test_auto_is_exact_and_no_dearer_than_one_sided(size, per_node):
    chosen = read("auto", size=size, per_node=per_node)
    setup = cost.Setup(ranks=size, pairs=256, width=512, per_node=per_node)
    assert chosen.exact
    assert chosen.rows * chosen.columns == size
    assert cost.grid(setup, chosen.rows, chosen.columns).seconds <= cost.grid(setup, size, 1).seconds


def test_the_square_grid_moves_the_bytes_of_the_formula():
    setup = cost.Setup(ranks=64, pairs=256, width=512, statistics=0)
    assert cost.grid(setup, 8, 8).received == pytest.approx(2 * 14 * setup.block * 4, rel=1e-4)
    assert cost.open_clip(setup)[0].received == 4 * 63 * setup.block * 4


def test_what_a_teacher_says_and_marks_add_the_bytes_of_the_formula():
    plain = cost.Setup(ranks=64, pairs=256, width=512, statistics=2)
    rich = dataclasses.replace(plain, means=1, guide=768, guide_element=2, beside=4 * 3)
    per_pair = 768 * 2 + 4 * 3  # FG and FM: one gather along each axis
    added = cost.grid(rich, 8, 8).received - cost.grid(plain, 8, 8).received
    assert added == pytest.approx(2 * 7 * 256 * (per_pair + 2 * 4))  # a mean is in an all-reduce, which passes twice
    ring = cost.ring(rich).received - cost.ring(plain).received
    assert ring == pytest.approx(63 * 256 * (2 * 768 * 2 + 4 * 3 + 2 * 4))


def test_the_plan_recommends_an_exact_strategy_and_says_why(capsys):
    assert main(["--ranks", "512", "--batch", "131072"]) == 0
    text = capsys.readouterr().out
    assert "recommended: --training.negatives grid:16x32" in text
    assert "WRONG: drops half the gradient" in text
    assert main(["--ranks", "512", "--batch", "131072", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    chosen = [row for row in printed["strategies"] if row["recommended"]]
    assert [row["name"] for row in chosen] == [printed["recommended"]]
    assert chosen[0]["exact"]
    with pytest.raises(UserError, match="ranks should divide the batch"):
        main(["--ranks", "7", "--batch", "100"])


def test_the_plan_counts_the_model(capsys):
    pytest.importorskip("open_clip")
    assert main(["--ranks", "8", "--batch", "8192", "--model", "ViT-S-32-alt", "--memory", "0.5"]) == 0
    assert "does NOT fit" in capsys.readouterr().out
    with pytest.raises(UserError, match="no open_clip model"):
        main(["--model", "ViT-Z"])
