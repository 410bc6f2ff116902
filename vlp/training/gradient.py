"""The two ways to the gradient of one optimizer step: the whole batch at once, or in chunks with the same result.

The loss is evaluated once per step on all embeddings of the local batch, in both. `cached` (GradCache, 2101.06983)
encodes the batch twice, first without a graph and then, tower by tower and chunk by chunk, with one; its memory does
not grow with the number of chunks. Both draw a chunk's random numbers (dropout, patch dropout) from a seed of its own,
so they agree exactly with dropout on. A norm that mixes pairs breaks it: a batch norm that is trained sees chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlp.batch import Batch, Embeddings

Objective = Callable[[Embeddings], Tensor]  # the global mean loss of this rank's pairs and everyone else's
Beside = Callable[[Batch, Embeddings], Embeddings]  # what a loss is given beside the embeddings of a batch
Send = Callable[[Tensor], None]  # starts captions [B, D] on their way to other ranks
PER_PAIR = ("image", "text", "negatives")  # what the towers give for each pair, where they do
SHARED = ("scale", "bias")  # and the objective's own weights, each called learnt.NAME
IMAGE_SEED = 1 << 62  # beyond the seeds of chunks

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


def whole_batch(
    model: nn.Module,
    objective: Objective,
    batch: Batch,
    *,
    seed: int,
    rows: int = 0,
    send: Send | None = None,
    beside: Beside | None = None,
    takes_all: bool = False,
) -> Tensor:
    """The loss []; gradients are added to the parameters' `.grad`. All ranks participate, and sync in the backward.

    `send` is given the captions' embeddings while the images are still to be encoded. With `rows`, each tower sees
    chunks of that many pairs, all in one graph: the reference of `cached`. `takes_all`: as Objective has it.
    """
    if rows:
        out = parted(apart(model, split(batch, rows), seed, send), batch)
    else:
        torch.manual_seed(seed)
        out = parted(model(batch.image, spoken(batch), send), batch)
    loss, gradients = at_embeddings(objective, with_companions(batch, out, beside), takes_all=takes_all)
    backward(out, gradients)
    return loss


def cached(
    model: nn.Module,
    objective: Objective,
    batch: Batch,
    *,
    seed: int,
    rows: int,
    unsynced: Unsynced = nullcontext,
    texts_sync: bool = False,
    send: Send | None = None,
    beside: Beside | None = None,
    takes_all: bool = False,
    known: Embeddings | None = None,
) -> Tensor:
    """The same as `whole_batch`, holding the graph of one tower and `rows` pairs at a time. All ranks participate.

    `unsynced()` is the context that keeps backwards from syncing. DDP syncs in the last backward only, and must look
    for unused parameters (find_unused_parameters): those of the text tower have their gradients already. `texts_sync`:
    the last backward of the text tower syncs that tower, as FSDP2 does it. `known`: what the towers give for the batch,
    where that is known already: it is then encoded once, with a graph.
    """
    chunks = split(batch, rows)
    module = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    buffers = Buffers(module)
    with torch.no_grad():
        out = parted(apart(module, chunks, seed, send), batch) if known is None else sent(known, send)
    buffers.restore()  # the replay below updates running statistics, once
    loss, gradients = at_embeddings(objective, with_companions(batch, out, beside), takes_all=takes_all)
    last = len(chunks) - 1

    def own(i: int, *names: str) -> dict[str, Tensor]:
        return {n: gradients[n][i * rows : (i + 1) * rows] for n in names if n in gradients}

    for i, chunk in enumerate(chunks):
        with nullcontext() if texts_sync and i == last else unsynced():
            backward(parted(text_side(model, chunk, seed + i), chunk), own(i, "text", "negatives"))
    for i, chunk in enumerate(chunks):
        shared = own_shared(gradients) if i == last else {}  # one scale, one bias and so on serve all chunks
        with nullcontext() if i == last else unsynced():
            backward(image_side(model, chunk, seed + i), own(i, "image") | shared)
    return loss


def sent(out: Embeddings, send: Send | None) -> Embeddings:
    """The same embeddings, whose captions are on their way."""
    if send is not None:
        send(out.text)
    return out


def split(batch: Batch, rows: int) -> list[Batch]:
    """The batch in pieces of `rows` pairs, the last perhaps shorter; 0 means one piece."""
    rows = rows or len(batch)
    return [batch[i : i + rows] for i in range(0, len(batch), rows)]


def text_side(model: nn.Module, batch: Batch, seed: int) -> Embeddings:
    """The output of the text tower for `batch`, with random numbers that depend on `seed` alone."""
    torch.manual_seed(seed)
    out: Embeddings = model(None, spoken(batch))
    return out


def image_side(model: nn.Module, batch: Batch, seed: int) -> Embeddings:
    """The output of the image tower for `batch`, and scale and bias; other random numbers than the text tower's."""
    torch.manual_seed(IMAGE_SEED ^ seed)
    out: Embeddings = model(batch.image, None)
    return out


def spoken(batch: Batch) -> Tensor:
    """All that the text tower encodes at a time: captions [B, L], or [B, C + K, L] with C of them and K wrong ones."""
    if batch.negatives is None:
        return batch.text
    captions = batch.text if batch.text.ndim == 3 else batch.text[:, None]
    longest = max(captions.shape[-1], batch.negatives.shape[-1])
    return torch.cat([F.pad(t, (0, longest - t.shape[-1])) for t in (captions, batch.negatives)], 1)


def parted(out: Embeddings, batch: Batch) -> Embeddings:
    """The embeddings of `spoken` as those of captions and those of wrong ones."""
    if batch.negatives is None:
        return out
    count = batch.negatives.shape[1]
    text, negatives = out.text[:, :-count], out.text[:, -count:]
    one = batch.text.ndim == 2
    return replace(out, text=text[:, 0] if one else text, negatives=negatives, negatives_keep=batch.negatives_keep)


def apart(model: nn.Module, chunks: Sequence[Batch], seed: int, send: Send | None) -> Embeddings:
    """The output for all chunks as one, one tower after the other: captions travel while images are encoded."""
    texts = [text_side(model, c, seed + i) for i, c in enumerate(chunks)]

    def rows(name: str) -> Tensor | None:
        tensors = [getattr(t, name) for t in texts]
        return None if tensors[0] is None else torch.cat(tensors)

    text = torch.cat([t.text for t in texts])
    if send is not None:
        send(text)
    images = [image_side(model, c, seed + i) for i, c in enumerate(chunks)]
    negatives, keep = rows("negatives"), rows("negatives_keep")
    image = torch.cat([i.image for i in images])
    return replace(images[-1], image=image, text=text, negatives=negatives, negatives_keep=keep)


def with_companions(batch: Batch, out: Embeddings, beside: Beside | None) -> Embeddings:
    """The embeddings with all that the loss is given beside them (all ranks take part in `beside`)."""
    out = replace(out, ids=shared_ids(batch), weights=batch.weights)
    if beside is None:
        return out
    with torch.no_grad():
        return beside(batch, out)


def at_embeddings(
    objective: Objective, out: Embeddings, *, takes_all: bool = False
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss [], and its gradient at each tensor the model gave; zeros where the objective does not use one.

    Cutting the graph here gives every parameter a gradient on every rank, which DDP waits for, whatever the objective
    leaves out. All ranks participate in the objective.
    """
    leaves = {name: t.detach().requires_grad_() for name, t in given(out).items()}
    learnt = {name: leaves[f"learnt.{name}"] for name in out.learnt or {}}
    tensors = {name: leaf for name, leaf in leaves.items() if not name.startswith("learnt.")}
    with torch.enable_grad():
        given_leaves = replace(out, **tensors, learnt=learnt or None)
        loss = objective(given_leaves) if takes_all else over_views(objective, given_leaves)
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return loss.detach(), dict(zip(leaves, gradients, strict=True))


def given(out: Embeddings) -> dict[str, Tensor]:
    """What the model gave, by name: what has a gradient."""
    tensors = {name: getattr(out, name) for name in (*PER_PAIR, *SHARED)}
    tensors |= {f"learnt.{name}": weight for name, weight in (out.learnt or {}).items()}
    return {name: t for name, t in tensors.items() if t is not None}


def own_shared(gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those gradients that all pairs share."""
    return {name: g for name, g in gradients.items() if name not in PER_PAIR}


def over_views(objective: Objective, out: Embeddings) -> Tensor:
    """The objective [], or its mean over the V views of each sample where image is [B, V, D], and over its captions.

    Every view then meets each of the captions in a batch of its own kind, and is encoded once. All ranks take part.
    """
    if out.image.ndim == 2:
        return over_captions(objective, out)
    views = [
        over_captions(objective, replace(out, image=image, guide_image=said_of(out.guide_image, v)))
        for v, image in enumerate(out.image.unbind(1))
    ]
    return torch.stack(views).mean()


def over_captions(objective: Objective, out: Embeddings) -> Tensor:
    """The objective [], or its mean over the K captions of each picture where text is [B, K, D] (all take part)."""
    if out.text.ndim == 2:
        return objective(out)
    blocks = [
        objective(
            replace(
                out,
                text=text,
                ids=None if out.ids is None else out.ids[:, [0, k + 1]],
                guide_text=said_of(out.guide_text, k),
            )
        )
        for k, text in enumerate(out.text.unbind(1))
    ]
    return torch.stack(blocks).mean()


def said_of(guide: Tensor | None, k: int) -> Tensor | None:
    """[B, G] what a teacher says of view or caption `k`, where it tells them apart ([B, K, G])."""
    return guide[:, k] if guide is not None and guide.ndim == 3 else guide


def shared_ids(batch: Batch) -> Tensor | None:
    """[B, 1 + K] int64: the id of each pair and one for each of its K captions; None where pairs have no ids.

    Equal captions have equal ids, however far they are padded: a pair that says the same is no negative.
    """
    if batch.ids is None:
        return None
    text = batch.text.to(torch.int64)
    powers = torch.full((text.shape[-1],), 6364136223846793005, device=text.device).cumprod(0)  # modulo 2 ** 64
    captions = (text * powers).sum(-1)  # padding is 0 and adds nothing
    return torch.cat([batch.ids[:, None], captions.view(len(batch), -1)], 1)


def backward(out: Embeddings, gradients: Mapping[str, Tensor]) -> None:
    """Backpropagate these gradients from the tensors of `out`; the output of a locked tower is left out."""
    tensors = given(out)
    pairs = [(tensors[name], g) for name, g in gradients.items() if tensors[name].requires_grad]
    if pairs:
        torch.autograd.backward([t for t, _ in pairs], [g for _, g in pairs])
