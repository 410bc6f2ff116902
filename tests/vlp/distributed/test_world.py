"""What launchers say of a rank, and the time that ranks wait for each other."""

from __future__ import annotations

import doctest

import gloo_ranks
import sharded_cases

from vlp.distributed import world
from vlp.distributed.mesh import Mesh
from vlp.distributed.world import numbered, seat

SLURM = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_STEP_NODELIST": "a"}
SLURM |= {"SLURM_LOCALID": "0"}


def test_nodes_under_one_switch_are_neighbours_in_the_mesh() -> None:
    """Four nodes of two ranks under two switches, numbered by Slurm as they come: rows of four lie under one switch."""
    names = []
    for node, switch in enumerate(("s1", "s0", "s1", "s0")):
        place = {"SLURM_TOPOLOGY_ADDR": f"top.{switch}.n{node}", "SLURM_TOPOLOGY_ADDR_PATTERN": "switch.switch.node"}
        for rank in (2 * node, 2 * node + 1):
            made = seat({**SLURM, **place, "SLURM_PROCID": str(rank), "SLURM_NODEID": str(node)})
            assert made is not None
            names.append(made.node)
    mesh = Mesh.of(numbered(names), 2, 4)
    assert mesh.ranks == ((2, 3, 6, 7), (0, 1, 4, 5))


def test_without_a_topology_nodes_count_as_they_come() -> None:
    flat = {"SLURM_TOPOLOGY_ADDR": "n1", "SLURM_TOPOLOGY_ADDR_PATTERN": "node", "SLURM_PROCID": "1"}
    made = seat({**SLURM, **flat, "SLURM_NODEID": "1"})
    assert made is not None
    assert made.node == "1"
    assert doctest.testmod(world).failed == 0


def test_who_waits_for_a_late_rank_is_timed(tmp_path) -> None:  # type: ignore[no-untyped-def]
    waited = gloo_ranks.run(2, sharded_cases.waits_for_a_late_rank, 0.5, folder=tmp_path)
    assert waited[0] >= 0.4
    assert waited[1] <= 0.4
