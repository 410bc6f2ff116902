"""The two ways to the gradient of one optimizer step: the whole batch at once, or in chunks with the same result.

The loss is evaluated once per step on all embeddings of the local batch, in both. `cached` (GradCache, 2101.06983)
encodes the batch twice, first without a graph and then, chunk by chunk, with one; its memory does not grow with the
number of chunks. Both draw a chunk's random numbers (dropout, patch dropout) from a seed of its own, so they agree
exactly with dropout on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn

from vlp.batch import Batch, Embeddings

Objective = Callable[[Embeddings], Tensor]  # the global mean loss of this rank's pairs and everyone else's
Unsynced = Callable[[], AbstractContextManager[object]]


class Buffers:
    """The buffers of a module (a norm's running statistics) as they are now, to be put back later."""

    def __init__(self, module: nn.Module) -> None:
        self.kept = [(b, b.clone()) for b in module.buffers()]

    @torch.no_grad()
    def restore(self) -> None:
        """Undo what forward passes did to them since."""
        for buffer, value in self.kept:
            buffer.copy_(value)


def whole_batch(model: nn.Module, objective: Objective, batch: Batch, *, seed: int, rows: int = 0) -> Tensor:
    """The loss []; gradients are added to the parameters' `.grad`. All ranks participate, and sync in the backward.

    With `rows`, the towers see chunks of that many pairs, all in one graph: the reference of `cached`.
    """
    chunks = split(batch, rows)
    out = join([encode(model, c, seed + i) for i, c in enumerate(chunks)], batch)
    loss, gradients = at_embeddings(objective, out)
    backward([out.image, out.text, out.scale, out.bias], gradients)
    return loss


def cached(
    model: nn.Module, objective: Objective, batch: Batch, *, seed: int, rows: int, unsynced: Unsynced = nullcontext
) -> Tensor:
    """The same as `whole_batch`, holding the graph of `rows` pairs at a time. All ranks participate.

    Ranks sync in the backward of the last chunk only; `unsynced()` is the context that keeps the others from it.
    """
    chunks = split(batch, rows)
    module = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    buffers = Buffers(module)
    with torch.no_grad():
        out = join([encode(module, c, seed + i) for i, c in enumerate(chunks)], batch)
    buffers.restore()  # the replay below updates running statistics, once
    loss, (image, text, scale, bias) = at_embeddings(objective, out)
    for i, chunk in enumerate(chunks):
        last = i == len(chunks) - 1
        rows_of = slice(i * rows, i * rows + len(chunk))
        with nullcontext() if last else unsynced():
            part = encode(model, chunk, seed + i)
            tensors, gradients = [part.image, part.text], [image[rows_of], text[rows_of]]
            if last:  # one scale and one bias serve all chunks, so their gradient passes once
                tensors, gradients = [*tensors, part.scale, part.bias], [*gradients, scale, bias]
            backward(tensors, gradients)
    return loss


def split(batch: Batch, rows: int) -> list[Batch]:
    """The batch in pieces of `rows` pairs, the last perhaps shorter; 0 means one piece."""
    rows = rows or len(batch)
    return [batch[i : i + rows] for i in range(0, len(batch), rows)]


def encode(model: nn.Module, batch: Batch, seed: int) -> Embeddings:
    """The embeddings of `batch`, with random numbers that depend on `seed` alone."""
    torch.manual_seed(seed)
    out: Embeddings = model(batch.image, batch.text)
    return out


def join(parts: Sequence[Embeddings], batch: Batch) -> Embeddings:
    """The embeddings of all chunks as one, with the ids and weights of the batch."""
    return Embeddings(
        torch.cat([p.image for p in parts]),
        torch.cat([p.text for p in parts]),
        parts[-1].scale,
        parts[-1].bias,
        batch.ids,
        batch.weights,
    )


def at_embeddings(objective: Objective, out: Embeddings) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The loss [], and its gradients at image, text, scale and bias; zeros where the objective does not use one.

    Cutting the graph here gives every parameter a gradient on every rank, which DDP waits for, whatever the objective
    leaves out. All ranks participate in the objective.
    """
    leaves = [t.detach().requires_grad_() for t in (out.image, out.text, out.scale, out.bias)]
    image, text, scale, bias = leaves
    with torch.enable_grad():
        loss = objective(replace(out, image=image, text=text, scale=scale, bias=bias))
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    return loss.detach(), gradients


def backward(tensors: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
    """Go on backwards from `tensors` with `gradients`; a locked tower's tensors are left out."""
    pairs = [(t, g) for t, g in zip(tensors, gradients, strict=True) if t.requires_grad]
    torch.autograd.backward([t for t, _ in pairs], [g for _, g in pairs])
