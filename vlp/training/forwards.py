"""Forwards that a run replaces, and puts back: in half precision, encoded again in the backward, compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from vlp.training.gradient import Buffers
from vlp.training.towers import blocks, towers

Forward = Callable[..., Any]
LENGTHS = 64  # forms of one module that torch compiles before it gives up; its own limit is 8


class Forwards:
    """The forwards of some modules, replaced on the modules themselves: names, weights and hooks stay as they are."""

    def __init__(self) -> None:
        self.replaced: list[tuple[nn.Module, Forward | None, Forward]] = []  # module, its own before, and after

    @classmethod
    def of(
        cls,
        model: nn.Module,
        device: torch.device,
        half: torch.dtype | None,
        *,
        compiled: bool = False,
        recomputed: bool = False,
        by_block: bool = False,
    ) -> Forwards:
        """Those of a run on `device`, which multiplies in `half`, if not None: its step, and whoever measures one.

        `by_block`: what is compiled are blocks, also where they are not recomputed.
        """
        forwards = cls()
        if compiled:
            compile_towers(forwards, model, by_block=by_block or recomputed)
        if recomputed:
            recompute(forwards, model)
        if half is not None:
            if device.type == "cpu":
                write_attention_out(forwards, model)
            autocast(forwards, model, half, device)
        return forwards

    def replace(self, modules: Iterable[nn.Module], make: Callable[[Forward], Forward]) -> None:
        """Have each module call `make(its forward)` instead; those that are replaced last are called first."""
        for module in modules:
            self.replaced.append((module, vars(module).get("forward"), make(module.forward)))
            module.forward = self.replaced[-1][2]

    def put_back(self) -> None:
        """Every module has the forward again that it had."""
        for module, before, _ in reversed(self.replaced):
            if before is None:
                vars(module).pop("forward", None)
            else:
                module.forward = before

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A context in which modules have the forwards that they had: evaluation brings other shapes and modes."""
        self.put_back()
        try:
            yield
        finally:
            for module, _, after in self.replaced:
                module.forward = after


def recompute(forwards: Forwards, model: nn.Module) -> None:
    """Keep the inputs of the towers' blocks alone, and encode each block again in the backward (1604.06174).

    Random numbers are drawn alike, and running statistics are moved once.
    """
    for block in recomputed(model):
        contexts = partial(_contexts, block) if next(block.buffers(), None) is not None else None
        again: dict[str, Any] = {"use_reentrant": False} | ({"context_fn": contexts} if contexts else {})
        forwards.replace([block], partial(partial, checkpoint, **again))


def recomputed(model: nn.Module) -> list[nn.Module]:
    """The blocks that have something to train."""
    every = [block for tower in towers(model) for block in blocks(tower)]
    return [block for block in every if any(p.requires_grad for p in block.parameters())]


def compile_towers(forwards: Forwards, model: nn.Module, *, by_block: bool, backend: str = "inductor") -> None:
    """Compile each tower; or each of its blocks, where something happens between them (recomputing, sharding).

    Each length of texts is compiled once, with a graph and without: the caller keeps them few.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, LENGTHS)
    parts = [block for tower in towers(model) for block in (blocks(tower) if by_block else [tower])]
    forwards.replace(parts, partial(torch.compile, dynamic=False, backend=backend))


def autocast(forwards: Forwards, model: nn.Module, half: torch.dtype, device: torch.device) -> None:
    """Multiply in `half` what torch's autocast deems safe."""
    forwards.replace([model], torch.autocast(device.type, half))


def write_attention_out(forwards: Forwards, model: nn.Module) -> None:
    """Have every attention be two matrix products and a softmax.

    Of torch's fused attention for CPUs, the backward in half precision takes four to eight times as long as theirs.
    """
    forwards.replace([m for m in model.modules() if type(m) is nn.MultiheadAttention], _with_weights)


def _with_weights(forward: Forward) -> Forward:
    """What asks for the weights of an attention, for which torch leaves its fused kernel alone, and drops them."""

    def attend(*inputs: Any, **options: Any) -> tuple[Any, Any]:
        if options.get("need_weights", True):  # as torch's own: then it uses no fused kernel anyway
            return tuple(forward(*inputs, **options))
        return forward(*inputs, **{**options, "need_weights": True, "average_attn_weights": False})[0], None

    return attend


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """What the first forward of a block runs in, and the second."""
    return nullcontext(), _as_before(block)


@contextmanager
def _as_before(block: nn.Module) -> Iterator[None]:
    buffers = Buffers(block)
    try:
        yield
    finally:
        buffers.restore()
