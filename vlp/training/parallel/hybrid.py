"""Hybrid sharding: FSDP2 inside each node, whose copies are averaged across nodes."""

from __future__ import annotations

from typing import ClassVar

from vlp.training.parallel import fsdp2


class Chosen(fsdp2.Chosen):
    """FSDP2 on a mesh of nodes x ranks of a node: weights are gathered over the links inside nodes only."""

    hybrid: ClassVar[bool] = True
