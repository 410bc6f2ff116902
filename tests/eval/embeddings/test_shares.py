"""Who makes which part: torchrun, srun, arrays, and both together."""

from __future__ import annotations

import pytest

from eval.embeddings.shares import Share, device_of, share_of
from vlp.errors import UserError


def array(task: int, count: int, first: int = 0, last: int | None = None, step: int = 1) -> dict[str, str]:
    last = first + (count - 1) * step if last is None else last
    facts = {"ID": task, "COUNT": count, "MIN": first, "MAX": last, "STEP": step}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in facts.items()}


@pytest.mark.parametrize(
    "env, share",
    [
        ({}, Share(0, 1)),
        ({"RANK": "3", "WORLD_SIZE": "8"}, Share(3, 8)),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4"}, Share(1, 4)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, Share(0, 1)),  # a batch script: one process, whatever it may start
        (array(2, 5), Share(2, 5)),
        (array(7, 3, first=1, step=3), Share(2, 3)),
        (array(2, 5) | {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4"}, Share(9, 20)),
        (array(2, 5) | {"RANK": "7", "WORLD_SIZE": "8", "SLURM_PROCID": "0"}, Share(23, 40)),
        (array(6, 1, first=6), Share(0, 1)),  # one task that is given again does whatever is missing
    ],
)
def test_what_launchers_say_is_a_share(env: dict[str, str], share: Share) -> None:
    assert share_of(env) == share


def test_an_array_with_gaps_is_one_sentence() -> None:
    with pytest.raises(UserError, match="the Slurm array has 3 tasks between 1 and 7"):
        share_of(array(3, 3, first=1, last=7))


@pytest.mark.parametrize("parts, size", [(0, 1), (7, 3), (3, 5)])
def test_every_part_is_one_rank_s_own_and_all_the_others_are_to_be_helped_with(parts: int, size: int) -> None:
    ranks = [Share(rank, size) for rank in range(size)]
    assert sorted(part for rank in ranks for part in rank.own(parts)) == list(range(parts))
    for rank in ranks:
        assert sorted([*rank.own(parts), *rank.others(parts)]) == list(range(parts))


def test_ranks_of_one_machine_have_their_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert device_of("cuda", {"LOCAL_RANK": "5"}) == "cuda:1"
    assert device_of("cpu", {"LOCAL_RANK": "5"}) == device_of("cpu", {}) == "cpu"
    assert device_of("cuda", {}) == "cuda"
