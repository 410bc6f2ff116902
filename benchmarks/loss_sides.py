"""The two sides of `benchmarks.loss`, each run in processes of its own: `python -m benchmarks.loss_sides CASE JSON`."""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from vlp.batch import Batch, Embeddings
from vlp.losses.infonce import InfoNCE
from vlp.losses.siglip import SigLIP

WIDTH = 512
Step = Callable[[Embeddings], Tensor]


def embeddings(pairs: int) -> Embeddings:
    image, text = (normalize(torch.randn(pairs, WIDTH), dim=-1).requires_grad_() for _ in range(2))
    return Embeddings(image, text, torch.tensor(20.0, requires_grad=True), torch.tensor(0.0))


def clip_loss(rank: int = 0, size: int = 1) -> Step:
    from open_clip.loss import ClipLoss

    peer = ClipLoss(local_loss=size > 1, gather_with_grad=size > 1, rank=rank, world_size=size)
    return lambda e: peer(e.image, e.text, e.scale)


def one_step(loss: Step, e: Embeddings) -> None:
    loss(e).backward()
    for tensor in (e.image, e.text, e.scale):
        tensor.grad = None


def cpu_time(*, pairs: int, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of value and gradient, both sides in turns in one process, after a warm-up of each."""
    sides, e = {"ours": InfoNCE(), "peer": clip_loss()}, embeddings(pairs)
    spent: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, loss in sides.items():
            begun = time.process_time()
            one_step(loss, e)
            if turn:
                spent[name].append(time.process_time() - begun)
    return spent


def resident() -> float:
    """The highest resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def rss(*, side: str, pairs: int) -> float:
    """MB of resident memory that value and gradient add to a process that holds the embeddings."""
    loss = InfoNCE() if side == "ours" else clip_loss()
    one_step(loss, embeddings(64))  # libraries and buffers that any size needs
    e = embeddings(pairs)
    before = resident()
    one_step(loss, e)
    return resident() - before


def cached_rss(*, chunks: int) -> float:
    """MB that a cached step adds, with chunks of 64 pairs and towers whose activations outweigh the embeddings."""
    from vlp.training.gradient import cached

    class Towers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = lambda: nn.Sequential(nn.Conv2d(64, 64, 3, padding=1, groups=64), nn.GELU())  # noqa: E731
            self.image = nn.Sequential(nn.Conv2d(3, 64, 1), *(layer() for _ in range(8)), nn.AdaptiveAvgPool2d(1))
            self.head, self.text = nn.Linear(64, 128), nn.EmbeddingBag(100, 128)
            self.logit_scale, self.logit_bias = nn.Parameter(torch.tensor(3.0)), nn.Parameter(torch.tensor(0.0))

        def encode_image(self, image: Tensor) -> Tensor:
            return normalize(self.head(self.image(image.float() / 255).flatten(1)), dim=-1)

        def encode_text(self, text: Tensor) -> Tensor:
            return normalize(self.text(text), dim=-1)

        def forward(self, image: Tensor | None, text: Tensor | None) -> Embeddings:
            none = self.logit_scale.new_empty(0)
            images = none if image is None else self.encode_image(image)
            texts = none if text is None else self.encode_text(text)
            return Embeddings(images, texts, self.logit_scale.exp(), self.logit_bias)

    pairs, model, loss = 64 * chunks, Towers(), InfoNCE()
    image = torch.zeros(pairs, 3, 32, 32, dtype=torch.uint8)
    batch = Batch(image, torch.ones(pairs, 8, dtype=torch.int64), ("",) * pairs)
    one_step(loss, embeddings(64))
    before = resident()
    cached(model, loss, batch, seed=0, rows=64)
    return resident() - before


# Worlds


def world(*, size: int, **options: Any) -> dict[str, Any]:
    """Seconds of a step in turns, bytes received and bytes alive at the peak, of both sides on `size` gloo ranks."""
    with tempfile.TemporaryDirectory() as folder:
        context = torch.multiprocessing.spawn(rank_main, (size, options, folder), size, join=False)
        while not context.join():
            pass
        return dict(json.loads((Path(folder) / "rank0.json").read_text()))


def rank_main(rank: int, size: int, options: dict[str, Any], folder: str) -> None:
    import torch.distributed as dist

    from vlp.distributed.plan.simulation import Living
    from vlp.distributed.plan.traffic import Traffic
    from vlp.distributed.sharded import sharded
    from vlp.distributed.world import connect

    pairs, rounds, objective = options["pairs"], options["rounds"], options["objective"]
    torch.set_num_threads(1)
    torch.manual_seed(rank)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(size))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=os.environ.get("BENCH_PORT", "29731"), GROUP_RANK="0")
    with connect() as here:
        ours = sharded(InfoNCE() if objective == "infonce" else SigLIP(), here, options["negatives"])
        sides = {"ours": ours, "peer": clip_loss(rank, size) if objective == "infonce" else siglip_loss(rank, size)}
        e = embeddings(pairs)
        measurements: dict[str, Any] = {name: {"seconds": []} for name in sides}
        for turn in range(rounds + 1):
            for name, loss in sides.items():
                dist.barrier()
                begun = time.perf_counter()
                one_step(loss, e)
                dist.barrier()
                if turn:
                    measurements[name]["seconds"].append(time.perf_counter() - begun)
        for name, loss in sides.items():
            with Traffic() as traffic:
                one_step(loss, e)
            with Living() as living:
                one_step(loss, e)
            measurements[name] |= {"bytes": traffic.total, "memory": living.peak}
        if rank == 0:
            (Path(folder) / "rank0.json").write_text(json.dumps(measurements))


def siglip_loss(rank: int, size: int) -> Step:
    from open_clip.loss import SigLipLoss

    peer = SigLipLoss(rank=rank, world_size=size, dist_impl="bidir")
    return lambda e: peer(e.image, e.text, e.scale, e.bias)


def simulated(*, side: str, size: int, pairs: int, width: int, per_node: int) -> int:
    """Bytes alive at the peak of one rank of `size`, on fake tensors and a fake process group."""
    from vlp.distributed.plan.simulation import fake_world, peak_of, simulated_peak

    shape: dict[str, Any] = {"pairs": pairs, "width": width, "dtype": torch.float32}
    if side == "ours":
        return simulated_peak(InfoNCE(), "grid", size=size, per_node=per_node, **shape)
    with fake_world(size, per_node):
        return peak_of(clip_loss(0, size), **shape)


def siglip_logits(*, side: str, size: int, pairs: int) -> int:
    """Bytes of logits alive at the peak: all that is not as wide as the features."""
    from vlp.distributed.plan.simulation import Living, fake_world, peak_of, simulated_peak

    class Logits(Living):
        def counts(self, tensor: Tensor) -> bool:
            return WIDTH not in tensor.shape

    shape: dict[str, Any] = {"pairs": pairs, "width": WIDTH, "dtype": torch.float32, "living": Logits}
    if side == "ours":
        return simulated_peak(SigLIP(), "grid", size=size, per_node=size, **shape)
    with fake_world(size, size):
        return peak_of(siglip_loss(0, size), **shape)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    case = {f.__name__: f for f in (cpu_time, rss, cached_rss, world, simulated, siglip_logits)}[sys.argv[1]]
    print("RESULT " + json.dumps(case(**json.loads(sys.argv[2]))))  # type: ignore[operator]
