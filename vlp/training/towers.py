"""The parts of a model that are compiled, sharded or encoded again one at a time: its towers, and their blocks."""

from __future__ import annotations

from torch import nn

from vlp.models.dual_encoder import Learnt


def towers(model: nn.Module) -> list[nn.Module]:
    """The children of `model` that have weights, those of its objective left out."""
    return [child for child in model.children() if has_weights(child) and not isinstance(child, Learnt)]


def learnt(model: nn.Module) -> list[nn.Module]:
    """The part of `model` that has the weights of its objective, if any."""
    return [child for child in model.children() if has_weights(child) and isinstance(child, Learnt)]


def blocks(module: nn.Module) -> list[nn.Module]:
    """The repeated layers of a tower, such as a transformer's or a residual network's blocks, in order.

    They are those members of a list or sequence that are made of parts with weights, if they are of one class; of such
    sequences inside one another, the innermost.
    """
    inner = [block for child in module.children() for block in blocks(child)]
    if inner or not isinstance(module, nn.ModuleList | nn.Sequential):
        return inner
    made = [member for member in module.children() if any(has_weights(part) for part in member.children())]
    return made if len({type(member) for member in made}) == 1 else []


def units(model: nn.Module) -> list[nn.Module]:
    """The blocks of each tower and then the tower."""
    return [unit for tower in towers(model) for unit in (*blocks(tower), tower)]


def has_weights(module: nn.Module) -> bool:
    """Whether there is any parameter in it."""
    return next(module.parameters(), None) is not None
