"""The layers of any tower from bottom to top, whatever library it is from: for learning rates, locks and adapters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from torch import nn

LAST = ("proj", "projection")  # parameters of a tower itself that come after its blocks; others come before them


@dataclass
class Layer:
    """Modules and parameters that are one step of depth."""

    modules: list[nn.Module] = field(default_factory=list)
    own: list[tuple[nn.Module, str]] = field(default_factory=list)
    """(module, name) of parameters that belong to none of `modules`, such as a class embedding"""

    def own_parameters(self) -> Iterator[nn.Parameter]:
        """Those of `own`, as they are now: FSDP2 puts others in their place."""
        for module, name in self.own:
            yield module.get_parameter(name)

    def parameters(self) -> Iterator[nn.Parameter]:
        """All parameters of the layer."""
        yield from self.own_parameters()
        for module in self.modules:
            yield from module.parameters()


def layers(tower: nn.Module) -> list[Layer]:
    """[embeddings, block, ..., block, head] of `tower`; a single layer where it has no row of blocks.

    The blocks are those of the first ModuleLists or Sequentials, on the way down, that outweigh what has such rows
    beside them. What is registered before them is the bottom, what comes after them the top.
    """
    bottom, top, at = Layer(), Layer(), tower
    while True:
        for name, _ in at.named_parameters(recurse=False):
            (top if name.endswith(LAST) else bottom).own.append((at, name))
        children = list(at.children())
        rows = [c for c in children if is_row(c)]
        deeper = [c for c in children if c not in rows and any(map(is_row, c.modules()))]
        if rows and sum(map(weight, rows)) >= max(map(weight, deeper), default=0):
            break
        if not deeper:
            return [Layer([tower])]
        heaviest = max(deeper, key=weight)
        place = children.index(heaviest)
        bottom.modules += children[:place]
        top.modules[:0] = children[place + 1 :]
        at = heaviest
    first, last = children.index(rows[0]), children.index(rows[-1])
    bottom.modules += children[:first]
    top.modules[:0] = children[last + 1 :]
    blocks = [
        block for child in children[first : last + 1] for block in (child.children() if child in rows else [child])
    ]
    return [layer for layer in (bottom, *steps(blocks), top) if any(True for _ in layer.parameters())]


def is_row(module: nn.Module) -> bool:
    """Whether a module is a row of others."""
    return isinstance(module, nn.ModuleList | nn.Sequential) and len(module) > 0


def steps(blocks: Sequence[nn.Module]) -> list[Layer]:
    """A layer for each block; one without matrices, such as a norm, belongs to the block before it."""
    out: list[Layer] = []
    for block in blocks:
        if out and not any(p.ndim >= 2 for p in block.parameters()):
            out[-1].modules.append(block)
        else:
            out.append(Layer([block]))
    return out


def weight(module: nn.Module) -> int:
    """Numbers in the parameters of `module`, embeddings apart: a vocabulary says nothing about depth."""
    embeddings = {id(p) for m in module.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    return sum(p.numel() for p in module.parameters() if id(p) not in embeddings)
