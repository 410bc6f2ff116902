"""N gloo ranks by every schedule and every factorisation = one float64 process, in value and gradient."""

import gloo_ranks
import pytest
import sharded_cases as cases
import step_cases
import torch

from vlp.distributed.sharded import sharded
from vlp.distributed.world import World
from vlp.errors import UserError
from vlp.losses.infonce import InfoNCE


@pytest.mark.parametrize("size", [1, 2, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 4, 6, 8))])
def test_any_number_of_ranks_is_one_process(size, tmp_path):
    for wrong, worst_under_ddp in gloo_ranks.run(size, cases.everything, folder=tmp_path):
        assert not wrong, wrong
        assert worst_under_ddp < 1e-12


@pytest.mark.parametrize("size", [1, 2, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 4, 6, 8))])
def test_every_objective_schedule_step_and_precision_gives_the_gradient_of_one_process(size, tmp_path):
    for wrong in gloo_ranks.run(size, step_cases.every_step, folder=tmp_path, timeout=280):
        assert not wrong, wrong


@pytest.mark.slow
@pytest.mark.parametrize("size", [9, 12, 16])
def test_larger_worlds_too(size, tmp_path):
    for wrong, worst_under_ddp in gloo_ranks.run(size, cases.everything, folder=tmp_path, timeout=900):
        assert not wrong, wrong
        assert worst_under_ddp < 1e-12


def test_grouped_is_the_mean_over_groups_that_are_redrawn_and_says_that_it_is_approximate(tmp_path):
    endings = gloo_ranks.finish(gloo_ranks.start(4, cases.grouped, folder=tmp_path))
    assert [e.code for e in endings] == [0] * 4, endings
    for value, mean, _, same_gradient in (e.answer for e in endings):
        assert value == pytest.approx(mean, rel=1e-12)
        assert same_gradient
    draws = [e.answer[2] for e in endings]
    assert all(draws[rank][step] == draws[draws[rank][step][0]][step] for rank in range(4) for step in range(5))
    assert len({draws[0][step] for step in range(5)}) > 1
    assert "APPROXIMATION" in endings[0].output
    assert not any("APPROXIMATION" in e.output for e in endings[1:])


def test_strategies_that_do_not_fit_are_refused():
    four = World(0, 4, 0, 4, torch.device("cpu"), (0, 0, 0, 0))
    for negatives, sentence in (
        ("grid:3x2", "6 ranks; this run has 4"),
        ("grouped:3", "divide the 4"),
        ("best", "auto"),
    ):
        with pytest.raises(UserError, match=sentence):
            sharded(InfoNCE(), four, negatives)


def test_a_rank_knows_how_long_it_waited_for_others(tmp_path):
    first, late = gloo_ranks.run(2, cases.comes_late, folder=tmp_path)
    assert first > 0.25 > late
