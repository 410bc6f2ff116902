"""The memory that a run will need, estimated before it starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from vlp.batch import Batch
from vlp.errors import UserError
from vlp.training.gradient import Buffers, spoken

SLACK = 1.2  # temporaries, fragmentation
PICTURES = 4  # a batch of pictures: prefetched, being collated, on the device, as floats (counted apart)


@dataclass(frozen=True)
class Memory:
    """Bytes on one rank."""

    weights: int
    """weights that are not there yet, gradients, optimizer, average"""
    activations: int
    """what the backward of one chunk keeps"""
    batches: int
    """pictures and texts under way"""

    @property
    def total(self) -> int:
        """Everything together, with slack."""
        return round(SLACK * (self.weights + self.activations + self.batches))


def estimate(
    model: nn.Module,
    example: Batch,
    *,
    rows: int,
    chunk: int,
    copies: int,
    shards: int = 1,
    beside: int = 0,
) -> Memory:
    """Memory of a rank that trains on `rows` pairs per step, `chunk` of them in one graph.

    `example` is two or more pairs as the stream gives them; `copies` says how many numbers are kept per weight besides
    the weight, which `shards` ranks share; `beside` are bytes of another model. The activations per pair are measured
    on `example`, on the model's device, with the forwards that it has.
    """
    weights = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad) // shards
    one, all_ = (saved_bytes(model, example[slice(0, n)]) for n in (len(example) // 2, len(example)))
    per_pair = max(all_ - one, 0) / (len(example) - len(example) // 2)
    pair = (example.image.nbytes + spoken(example).nbytes) / len(example)
    floats = example.image[0].numel() * 4 * chunk
    return Memory(copies * weights + beside, round(per_pair * chunk + floats), round(PICTURES * pair * rows))


def saved_bytes(model: nn.Module, batch: Batch) -> int:
    """Bytes that autograd keeps for the backward of one forward pass, the weights apart."""
    known = {p.untyped_storage()._cdata for p in [*model.parameters(), *model.buffers()]}
    seen: dict[int, tuple[int, Tensor]] = {}  # the tensor is kept too, lest its address be used again

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            seen[storage._cdata] = (storage.nbytes(), tensor.detach())
        return tensor

    buffers = Buffers(model)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        kept = model(batch.image, spoken(batch))
    buffers.restore()
    del kept
    return sum(size for size, _ in seen.values())


def available(device: torch.device, ranks: int) -> int:
    """Bytes that one of `ranks` processes on this machine may still take, its container's limit included."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    free = int(psutil.virtual_memory().available)
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and (text := limit.read_text().strip()) != "max":
        free = min(free, int(text) - int(used.read_text()))
    return free // ranks


def refuse_too_much(need: Memory, free: int, *, rows: int, chunk: int, exact: bool = True) -> None:
    """Raise UserError if `need` is more than `free` bytes; it says what would fit.

    `exact`: whether chunks give the gradient of the whole batch, which batch norms prevent.
    """
    if need.total <= free:
        return
    per_pair = max(need.activations // chunk, 1)
    fits = int((free / SLACK - need.weights - need.batches) // per_pair)
    if fits >= 8:
        same = "the gradient stays the same" if exact else "its batch norms then see a chunk at a time"
        advice = f"set training.chunk to {2 ** (fits.bit_length() - 1)} ({same})"
    else:
        advice = "lower training.batch, take a smaller model, or use more processes on more machines"
    raise UserError(
        f"this run needs about {need.total / 2**30:.1f} GiB per process ({need.activations / 2**30:.1f} for {chunk} of "
        f"its {rows} pairs per step in one graph, {need.weights / 2**30:.1f} for weights, gradients and optimizer), "
        f"but {free / 2**30:.1f} GiB are free; {advice}"
    )
