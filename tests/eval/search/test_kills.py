"""Whenever a command that writes an index is killed, the index is as before the command or as after it."""

from __future__ import annotations

import random
import secrets
from pathlib import Path

import pytest

from benchmarks.faults.index_changes import World
from benchmarks.faults.index_kills import at_every_step, at_random


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_kill_at_a_third_of_the_steps_of_each_command_leaves_a_whole_index(
    model_folder: Path, tmp_path: Path
) -> None:
    first = 1 + secrets.randbelow(3)  # `benchmarks.faults` kills at each step
    kills, wrong = at_every_step(World.made(tmp_path / "world", model_folder), every=3, first=first)
    assert wrong == [], f"from step {first} on"
    assert kills > 33


@pytest.mark.slow
def test_an_index_lives_through_kills_at_random_moments(model_folder: Path, tmp_path: Path) -> None:
    seed = secrets.randbelow(10**6)
    print(f"seed {seed}")
    kills, wrong = at_random(World.made(tmp_path / "world", model_folder), random.Random(seed), 25)
    assert wrong == [], f"seed {seed}"
    assert kills == 25
