"""The grid: images meet along its rows, captions along its columns, and every logit is computed once."""

from __future__ import annotations

from vlp.distributed.mesh import Mesh, axes
from vlp.distributed.strategies.strategy import Strategy
from vlp.distributed.world import World
from vlp.losses._engine.peers import ALONE, Peers


def crossing(world: World, strategy: Strategy) -> tuple[Peers, Peers]:
    """(the peers of my row, those of my column); nobody where the strategy is no grid (all ranks take part)."""
    if world.size == 1 or strategy.kind != "grid":
        return ALONE, ALONE
    return axes(Mesh.of(world.nodes, strategy.rows, strategy.columns), world.rank)
