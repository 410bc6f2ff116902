"""A GPU's training step, loss and loader, against open_clip's in the same process.

    python -m benchmarks.gpu --json benchmarks/results/gpu.json        on a machine with CUDA, about ten minutes
    python -m benchmarks.gpu --device cpu --quick                      the same code, small, to see that it runs

step.*    ViT-B/32 and ViT-B/16, softmax and SigLIP, bf16 and compiled: samples a second, peak memory, MFU
loss.*    value and gradient of bf16 features alone, of 8,192 to 131,072 pairs: time and peak memory
loader.*  pairs a second from shards to the device, as they are trained on
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks import record
from data_pipelines.settings import Workers
from data_pipelines.stream import Stream
from vlp.batch import Batch, Embeddings
from vlp.distributed.sharded import sharded
from vlp.distributed.world import World
from vlp.losses import Loss
from vlp.losses._engine.contrast import contrast
from vlp.losses.infonce import InfoNCE
from vlp.losses.siglip import SigLIP
from vlp.models.image_transform import RandomCrop
from vlp.models.kinds.open_clip import OpenClip
from vlp.models.tokenizer import OpenClipTokenizer
from vlp.training.parallel import parallel
from vlp.training.parallel.precision import HALF, feature_dtype
from vlp.training.peak import matmul_peak, settle, step_flops
from vlp.training.settings import Training
from vlp.training.state import TrainState

PEER = "open_clip 3.3.0"
OBJECTIVES: dict[str, Loss] = {"softmax": InfoNCE(), "siglip": SigLIP()}
Step = Callable[[], object]


def timed(step: Step, device: torch.device, steps: int) -> tuple[float, float]:
    """Seconds of a step, and the peak of memory in MiB (0 on a CPU)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    settle(device)
    begun = time.perf_counter()
    for _ in range(steps):
        step()
    settle(device)
    seconds = (time.perf_counter() - begun) / steps
    return seconds, torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else 0.0


def ours(model: OpenClip, loss: Loss, batch: Batch, device: torch.device, *, compiled: bool) -> tuple[Step, TrainState]:
    """A step of the trainer."""
    world = World.alone(device)
    training = Training(samples=len(batch) * 10**6, batch=len(batch), precision="bf16", compile=compiled, clip=0.0)
    ranks = parallel(training.parallel, world, HALF["bf16"], chunked=False)
    objective = sharded(loss, world, features=feature_dtype(training.features, "bf16", device))
    state = TrainState(training, model.build(49408), objective, ranks, None)

    def step() -> None:
        value = state.gradient(batch)
        state.update(value, state.clip())

    return step, state


def theirs(model: OpenClip, loss: Loss, batch: Batch, device: torch.device, *, compiled: bool) -> Step:
    """A step as open_clip's training program makes it."""
    import open_clip
    from open_clip.loss import ClipLoss, SigLipLoss

    siglip = isinstance(loss, SigLIP)
    options = {"init_logit_bias": -10.0} if siglip else {}
    module = open_clip.create_model(model.architecture, output_dict=True, device=device, **options).train()
    objective = SigLipLoss() if siglip else ClipLoss()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1)
    forward = torch.compile(module) if compiled else module
    transform = model.transform()
    mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (transform.mean, transform.std))
    image = (batch.image / 255 - mean) / std

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16):
            out = forward(image, batch.text)
            value = sum(objective(**out, output_dict=True).values())
        value.backward()
        optimizer.step()
        with torch.no_grad():
            module.logit_scale.clamp_(0, 4.6052)

    return step


def steps(device: torch.device, *, quick: bool) -> list[dict[str, Any]]:
    """The training step."""
    rows = []
    pairs, rounds, each = (8, 1, 1) if quick else (512, 5, 20)
    for architecture in ("ViT-B-32",) if quick else ("ViT-B-32", "ViT-B-16"):
        model = OpenClip(architecture)
        tokens = OpenClipTokenizer(architecture)(["a photo of a cat on a mat in the sun"] * pairs)
        image = torch.randint(0, 256, (pairs, 3, 224, 224), dtype=torch.uint8)
        batch = Batch(image, tokens, tuple(map(str, range(pairs)))).to(device)
        for name, loss in OBJECTIVES.items():
            own, state = ours(model, loss, batch, device, compiled=not quick)
            peer = theirs(model, loss, batch, device, compiled=not quick)
            for one in (own, peer):
                timed(one, device, 1 if quick else 5)
            turns = [(timed(own, device, each), timed(peer, device, each)) for _ in range(rounds)]
            case = f"step.{architecture}.{name}"
            rates = [pairs / a[0] for a, _ in turns], [pairs / b[0] for _, b in turns]
            rows.append(record.row(f"{case}.samples_per_second", "samples/s", *rates, peer_name=PEER))
            peaks = [a[1] for a, _ in turns], [b[1] for _, b in turns]
            rows.append(
                record.row(f"{case}.peak_memory", "MiB, both sides' weights among them", *peaks, peer_name=PEER)
            )
            needed = step_flops(state.module, batch[: min(pairs, 32)]) * pairs / min(pairs, 32)
            peak = matmul_peak(device, torch.bfloat16)
            rows.append(record.row(f"{case}.mfu", "share", [needed * r / pairs / peak for r in rates[0]]))
            del own, peer, state
    return rows


def losses(device: torch.device, *, quick: bool) -> list[dict[str, Any]]:
    """The loss alone."""
    from open_clip.loss import ClipLoss

    rows = []
    for pairs in (512,) if quick else (8_192, 32_768, 131_072):
        image, text = (
            normalize(torch.randn(pairs, 512, device=device), dim=-1).bfloat16().requires_grad_() for _ in range(2)
        )
        scale, bias = torch.tensor(20.0, device=device, requires_grad=True), torch.tensor(0.0, device=device)
        e, peer = Embeddings(image, text, scale, bias), ClipLoss()

        def one(e: Embeddings = e) -> None:
            contrast(InfoNCE(), e).value.backward()

        def other(image: Tensor = image, text: Tensor = text, scale: Tensor = scale, peer: Any = peer) -> None:
            peer(image, text, scale.bfloat16()).backward()

        own: list[tuple[float, float]] = []
        their: list[tuple[float, float]] = []
        for turn in range(2 if quick else 6):
            for step, results in ((one, own), (other, their)):
                try:
                    result = timed(step, device, 1 if quick else 3)
                except torch.OutOfMemoryError:  # their logits are B x B
                    result = (float("nan"), float("nan"))
                if turn:
                    results.append(result)
        for name, unit, k in (("time", "s", 0), ("peak_memory", "MiB", 1)):
            rows.append(record.row(f"loss.{pairs}.{name}", unit, [a[k] for a in own], [b[k] for b in their], PEER))
    return rows


def loader(device: torch.device, *, quick: bool) -> list[dict[str, Any]]:
    """Shards to device."""
    batch, count = (64, 3) if quick else (512, 40)
    workers = Workers(count=0 if quick else 8, pin=device.type == "cuda")
    stream = Stream(shards="bundled:emoji/train", workers=workers).open(
        transform=RandomCrop(224), tokenizer=OpenClipTokenizer("ViT-B-32"), global_batch=batch
    )
    batches = iter(stream)
    next(batches).to(device)
    seconds, _ = timed(lambda: next(batches).to(device), device, count)
    stream.close()
    return [record.row("loader.pairs_per_second", "pairs/s", [batch / seconds])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    device = torch.device(options.device)
    rows = [row for part in (steps, losses, loader) for row in part(device, quick=options.quick)]
    about = record.conditions(("torch", "open_clip_torch"), threads=torch.get_num_threads())
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    record.write(options.json, {**about, "gpu": gpu}, rows)


if __name__ == "__main__":
    main()
