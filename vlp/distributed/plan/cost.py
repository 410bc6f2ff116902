"""What a strategy costs one rank: bytes by link, memory, arithmetic and time, in closed form.

Bytes are those a rank receives for one loss, forward and backward together. They are exact, and tested against counted
collectives. How many of them cross nodes, and how long they take, assumes ring collectives whose ring visits node after
node, as NCCL's do: a block enters each node once, and the ranks of the node share the work of fetching it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vlp.distributed.strategies.strategy import Strategy, grids
from vlp.losses._engine.tile_engine import EDGE

GRADIENT = 4  # bytes per element of the gradients that travel and add up: float32, or float64 for float64 features
AGREE = 224  # bytes of the all-reduce that asks whether the batches agree
CHECK = AGREE + 4  # bytes of the two all-reduces in which everyone takes part: that one, and the value
AHEAD = 48  # bytes of one more, for a grid, which sends captions ahead: do they agree


@dataclass(frozen=True)
class Setup:
    """A run: N ranks with b pairs of width D each, and the machine under it."""

    ranks: int
    pairs: int
    """b, pairs per rank."""
    width: int
    """D, width of the embeddings."""
    per_node: int = 8
    """Ranks that share a node."""
    element: int = 4
    """Bytes per element of the features: 4 float32, 2 bfloat16 (training.features)."""
    inside: float = 300e9
    """Bytes per second one rank receives from its own node."""
    between: float = 50e9
    """Bytes per second one rank receives from other nodes."""
    hop: float = 3e-6
    """Seconds each further rank adds to a collective."""
    flops: float = 300e12
    """Operations per second one rank sustains in matmuls."""
    statistics: int = 1
    """Log-sum-exps per row of the objective: 1 for InfoNCE, DCL and multi-positive, 3 for HN-NCE, 0 for SigLIP."""
    means: int = 0
    """Means per row under one of those: 1 for distillation, 2 for attraction and repulsion."""
    terms: int = 0
    """Further sums per row: 2 for multi-positive (spread), 1 or 2 for label smoothing."""
    edge: int = EDGE["cuda"]
    """Rows and columns of a tile of logits."""
    beside: int = 0
    """Bytes that travel beside the features of a pair: 8 for each id, 4 for a weight and for each mark."""
    guide: int = 0
    """G, width of a teacher's embeddings, which travel as features do and have no gradient; 0 without a teacher."""
    guide_element: int = 4
    """Bytes per element of a teacher's embeddings."""
    known: tuple[str, ...] = ()
    """Sides (rows, columns) of which a teacher says what they are themselves, which does not travel twice."""
    way: Literal["both", "rows", "columns"] = "both"
    """Who learns: images and captions, or images (rows) or captions (columns) alone from keys without gradient."""
    batch: bool = True
    """Whether pairs of the batch meet, and not only the bank, for which those that learn travel alone."""

    @property
    def two_passes(self) -> bool:
        """Whether logits are seen once for statistics and once for gradients; SigLIP needs the second pass alone."""
        return self.statistics > 0 or self.terms > 0

    def learns(self, side: str) -> bool:
        """Whether a side has a gradient."""
        return self.way in ("both", side)

    @property
    def block(self) -> int:
        """Elements of one rank's features, b D."""
        return self.pairs * self.width

    @property
    def gradient(self) -> int:
        """Bytes per element of gradients and statistics."""
        return max(GRADIENT, self.element)

    @property
    def vectors(self) -> int:
        """Bytes of one rank's rows in an all-reduce of their statistics: each number passes twice."""
        return 2 * (2 * self.statistics + self.means + 1 + self.terms) * self.pairs * self.gradient

    @property
    def taught(self) -> int:
        """Bytes of what a teacher says of one rank's images, or captions."""
        return self.pairs * self.guide * self.guide_element

    def told(self, side: str) -> int:
        """Those of them that travel for a side."""
        return 0 if side in self.known else self.taught


@dataclass(frozen=True)
class Cost:
    """One row of the plan; all numbers are per rank and per loss."""

    name: str
    exact: bool
    note: str
    inside: float  # bytes received from the own node
    between: float  # bytes received from other nodes
    memory: float  # bytes at the peak, beyond the rank's own embeddings
    flops: float
    seconds: float

    @property
    def received(self) -> float:
        """Bytes received from anywhere."""
        return self.inside + self.between


@dataclass(frozen=True)
class Load:
    """Bytes received inside and between nodes, and the hops they take."""

    inside: float = 0.0
    between: float = 0.0
    hops: int = 0

    @property
    def received(self) -> float:
        """Bytes received from anywhere."""
        return self.inside + self.between

    def __add__(self, other: Load) -> Load:
        return Load(self.inside + other.inside, self.between + other.between, self.hops + other.hops)

    def __mul__(self, times: float) -> Load:
        return Load(self.inside * times, self.between * times, self.hops)


def collective(setup: Setup, size: int, stride: int, block: float) -> Load:
    """An all-gather (or reduce-scatter) of `block` bytes among `size` ranks whose numbers lie `stride` apart."""
    if size == 1:
        return Load()
    together = min(size, max(1, setup.per_node // stride))  # members that share a node
    between = (size - together) / together * block if size > together else 0.0
    return Load((size - 1) * block - between, between, size - 1)


def everyone(setup: Setup) -> Load:
    """The two small all-reduces of every loss."""
    return small(setup, CHECK)


def small(setup: Setup, size: int) -> Load:
    """An all-reduce of `size` bytes among all ranks."""
    return collective(setup, setup.ranks, 1, 2 * size / setup.ranks)


def grid(setup: Setup, rows: int, columns: int) -> Cost:
    """The R x C grid, one-sided and all else that gathers images along rows and captions along columns."""
    s, feature, gradient = setup, setup.block * setup.element, setup.block * setup.gradient

    def along(side: str, *blocks: float) -> Load:
        if not s.batch and not s.learns(side):
            return Load()
        size, stride = (columns, 1) if side == "rows" else (rows, columns)
        return sum((collective(s, size, stride, block) for block in blocks), Load())

    load = everyone(s) + small(s, AHEAD)
    for side in ("rows", "columns"):
        load = load + along(side, feature, s.told(side), s.beside * s.pairs)
        if s.learns(side):
            load = load + along(side, gradient)
        if s.two_passes:  # an all-reduce of the maxima, one of the sums and the pairs' own logits: each passes twice
            load = load + along(side, s.vectors)
    gathered = (rows if rows > 1 else 0) + (columns if columns > 1 else 0)
    scattered = ((rows > 1) + (columns > 1)) * gradient
    # tiles and features are freed before the gradients are sent
    peak = max(scattered, gathered * (feature + s.taught) + tiles(s, rows * s.pairs, columns * s.pairs))
    memory = (rows + columns) * gradient + peak
    scalars = 6 * (rows + columns) * s.pairs * s.gradient
    matmuls = 4 if s.two_passes else 3
    note = "one-sided" if columns == 1 else ""
    name = f"grid:{rows}x{columns}"
    return cost(s, name, load, memory + scalars, matmuls=matmuls, note=note)


def ring(setup: Setup) -> Cost:
    """Captions travel around all ranks; a rank at a node's border fetches every block alone, but computes meanwhile."""
    s, passes = setup, int(setup.two_passes)
    block = (passes + 1) * (s.block * s.element + s.told("columns")) + s.learns("columns") * s.block * s.gradient
    load = Load(0.0, (s.ranks - 1) * block, (passes + 1) * (s.ranks - 1))
    if s.two_passes:
        load = load + collective(s, s.ranks, 1, s.vectors)
    load = load + collective(s, s.ranks, 1, s.beside * s.pairs) + everyone(s)
    if s.ranks <= s.per_node:
        load = Load(load.inside + load.between, 0.0, load.hops)
    memory = 3 * (s.block * s.element + s.taught) + 6 * s.block * s.gradient + 6 * s.ranks * s.pairs * s.gradient
    memory += tiles(s, s.pairs, s.pairs)
    return cost(s, "ring", load, memory, matmuls=3 + passes, overlap=True, note="least memory; computes while it waits")


def grouped(setup: Setup, group: int) -> Cost:
    """One-sided inside drawn groups of G ranks, most of them on other nodes: an approximation."""
    s = setup
    block = s.block * (s.element + s.learns("columns") * s.gradient) + s.told("columns")
    load = collective(s, group, s.per_node if s.ranks > s.per_node else 1, block)
    if s.two_passes:
        load = load + collective(s, group, 1, s.vectors)
    load = load + collective(s, group, 1, s.beside * s.pairs) + everyone(s)
    memory = group * (s.block * s.element + s.taught) + (2 * group + 1) * s.block * s.gradient
    return cost(s, f"grouped:{group}", load, memory, matmuls=4 * group / s.ranks, exact=False)


def pushed(setup: Setup, strategy: Strategy, *, parts: bool) -> Load:
    """What a step's pairs cost on their way into the bank: both sides of them, to whoever keeps them.

    `parts`: a rank of the grid keeps the captions of its column and the images of its row; else all keep everything.
    """
    feature = setup.block * setup.element
    if not parts:
        return collective(setup, setup.ranks, 1, 2 * feature)
    columns = strategy.columns
    return collective(setup, columns, 1, feature) + collective(setup, strategy.rows, columns, feature)


def open_clip(setup: Setup) -> list[Cost]:
    """open_clip's ClipLoss as it stands (3.3), in its four combinations."""
    s, feature = setup, setup.block * setup.element
    whole, rectangle = s.ranks * feature, s.ranks * s.pairs**2 * s.element
    gather = collective(s, s.ranks, 1, feature)
    local = max(4 * whole, 3 * whole + 4 * rectangle) + 3 * feature
    square = 4 * s.ranks * rectangle + 3 * whole
    rows = [
        ("open_clip local_loss gather_with_grad", True, "", 4, local, 6.0),
        ("open_clip gather_with_grad", True, "every rank computes all of it", 4, square, 3.0 * s.ranks),
        ("open_clip local_loss", False, "WRONG: drops half the gradient", 2, local, 6.0),
        ("open_clip (no option)", False, "gradient / N, temperature not", 2, square, 3.0 * s.ranks),
    ]
    return [
        cost(s, name, gather * times, memory, matmuls=matmuls, exact=exact, note=note)
        for name, exact, note, times, memory, matmuls in rows
    ]


def tiles(s: Setup, n: int, m: int) -> int:
    """Bytes of tiles of logits of an n x m block: two beside a copy of bfloat16 features, or one beside both.

    A teacher has a tile of its own, and so has what is averaged.
    """
    n, m = min(n, s.edge), min(m, s.edge)
    copies = s.width * (s.element < GRADIENT)
    taught = n * m * (bool(s.guide) + bool(s.means))
    return (max(2 * n * m + max(n, m) * copies, n * m + (n + m) * copies) + taught) * GRADIENT


def cost(
    s: Setup,
    name: str,
    load: Load,
    memory: float,
    *,
    matmuls: float,
    exact: bool = True,
    overlap: bool = False,
    note: str = "",
) -> Cost:
    """The row of a plan: `matmuls` products [b, D] @ [D, B] after `load` has arrived, or meanwhile (`overlap`)."""
    taught = (1 + s.two_passes) * s.guide
    flops = 2 * s.pairs * s.pairs * s.ranks * (matmuls * s.width + taught)
    wires = load.inside / s.inside + load.between / s.between + load.hops * s.hop
    computing = flops / s.flops
    seconds = max(wires, computing) if overlap else wires + computing
    return Cost(
        name, exact, note or ("" if exact else "approximate"), load.inside, load.between, memory, flops, seconds
    )


def predicted(setup: Setup, strategy: Strategy) -> Cost:
    """The row of the plan for a strategy."""
    if strategy.kind == "grid":
        return grid(setup, strategy.rows, strategy.columns)
    return ring(setup) if strategy.kind == "ring" else grouped(setup, strategy.group)


def candidates(setup: Setup) -> list[Cost]:
    """Every strategy of ours for a set-up, exact ones first, quickest first."""
    ours = [grid(setup, *shape) for shape in grids(setup.ranks)]
    if setup.ranks > 1:
        ours.append(ring(setup))
    if setup.ranks > setup.per_node:
        ours.append(grouped(setup, setup.per_node))
    return sorted(ours, key=lambda c: (not c.exact, c.seconds))


def recommended(setup: Setup, memory: float | None = None) -> Cost:
    """The quickest exact strategy that fits into `memory` bytes; the smallest one if none does."""
    exact = [c for c in candidates(setup) if c.exact]
    fitting = [c for c in exact if memory is None or c.memory <= memory]
    return fitting[0] if fitting else min(exact, key=lambda c: c.memory)


def automatic(size: int, per_node: int) -> Strategy:
    """What `negatives = "auto"` means: the plan's choice for 256 pairs of width 512 per rank on common links."""
    shapes = grids(size)
    setup = Setup(ranks=size, pairs=256, width=512, per_node=per_node)
    rows, columns = min(shapes, key=lambda shape: (grid(setup, *shape).seconds, per_node % shape[1] != 0, shape))
    return Strategy("grid", rows=rows, columns=columns)
