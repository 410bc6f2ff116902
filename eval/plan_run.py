"""`vlp plan run`: hours, storage, cores, checkpoints and failures of a whole run, before anyone pays for it."""

from __future__ import annotations

import io
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch

from train import RunConfig
from vlp.batch import Batch
from vlp.config import COMMON, parse
from vlp.config.bounds import Count, Whole, check
from vlp.distributed.plan.cluster import read_cluster
from vlp.distributed.plan.whole_run import Work, as_dict, plan, report
from vlp.errors import UserError
from vlp.models.image_transform import RandomCrop

if TYPE_CHECKING:
    from vlp.models.dual_encoder import DualEncoder

PICTURES = 64  # decoded to measure
MEASURED_S = 0.5  # how long decoding is measured, at least


@dataclass(frozen=True)
class PlannedRun(RunConfig):
    """A training run, and the cluster that it is planned for."""

    cluster: Annotated[Path, COMMON] = Path("cluster.toml")
    """file that describes the cluster: docs/training.md has one to begin with"""
    pair_bytes: Annotated[Whole, COMMON] = 0
    """bytes of a pair in the shards; 0: what the shards say"""
    side: Annotated[Count, COMMON] = 384
    """side of the JPEG that is decoded to measure, pixels, where the shards cannot be read here"""
    json: Annotated[bool, COMMON] = False
    """print JSON"""


def main(argv: Sequence[str]) -> int:
    """The command `vlp plan run`."""
    run = parse(PlannedRun, argv, "vlp plan run", __doc__ or "")
    check(run)
    cluster = read_cluster(run.cluster)
    if run.training.batch % cluster.ranks:
        raise UserError(
            f"training.batch is {run.training.batch}, which the {cluster.ranks} GPUs of {run.cluster} cannot share "
            f"evenly; make it a multiple of {cluster.ranks}"
        )
    work = work_of(run)
    planned = plan(work, cluster)
    print(json.dumps(as_dict(planned), indent=1) if run.json else report(planned, work, cluster))
    return 0


def work_of(run: PlannedRun) -> Work:
    """What the run does to each pair: counted on the meta device, and decoding measured here."""
    vocabulary, context = vocabulary_of(run)
    with torch.device("meta"):
        encoder = run.model.build(vocabulary, weights=False)
        run.towers.adapt(encoder)
    one = pairs(run, 1, context, "meta")
    forward, width = forward_flops(encoder, one), encoder(one.image, one.text).image.shape[-1]
    training = run.training
    state = training.optimizer.state_per_weight + bool(training.ema)
    pictures, pair_bytes = some_pictures(run)
    return Work(
        samples=training.samples,
        batch=training.batch,
        width=width,
        forward=forward,
        parameters=sum(p.numel() for p in encoder.parameters()),
        copies=1 + state,
        saved=state,
        activations=activations(encoder, run, context),
        chunk=training.chunk,
        pair_bytes=run.pair_bytes or pair_bytes,
        decode=decode_seconds(run, pictures),
        element=4 if training.features == "fp32" or training.precision in ("fp32", "fp64") else 2,
        statistics=run.loss.contrasts[0].exponent_count,
        parallel=training.parallel,
        recompute=training.recompute,
    )


def vocabulary_of(run: RunConfig) -> tuple[int, int]:
    """(tokens, most tokens of a text), without training a tokenizer."""
    from vlp.models.kinds.two_towers import TwoTowers

    model = run.model
    if isinstance(model, TwoTowers) and model.text.tokenizer() is None:
        return model.bpe.vocab, model.bpe.context
    tokenizer = model.tokenizer(())
    return tokenizer.vocab, tokenizer.context


def activations(encoder: DualEncoder, run: RunConfig, context: int) -> int:
    """Bytes that the backward pass of one pair keeps at the run's precision; `encoder` has no weights any more then.

    Fake tensors have the kinds and sizes of what autocast would make, and no memory. A text tower that packs its texts
    on a CPU has to know them, so it is asked as for an evaluation.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    from vlp.training.forwards import Forwards, recompute
    from vlp.training.memory import saved_bytes
    from vlp.training.parallel.precision import HALF

    training = run.training
    half = HALF.get("bf16" if training.precision == "auto" else training.precision)  # the GPUs of a plan have it
    with FakeTensorMode(allow_non_fake_inputs=True), torch.autocast("cpu", half, enabled=half is not None):
        encoder.to_empty(device="cpu")
        encoder.text_tower.eval()
        if training.recompute:
            recompute(Forwards(), encoder)
        one, two = (saved_bytes(encoder, pairs(run, n, context, "cpu")) for n in (1, 2))
    return two - one


def pairs(run: RunConfig, n: int, context: int, device: str) -> Batch:
    """`n` pairs without contents, with as many views and captions, right and wrong ones, as the run has of each."""
    size, data = run.model.transform().size, run.data
    views, captions = (() if count == 1 else (count,) for count in (data.views, data.captions.texts))
    image = torch.zeros(n, *views, 3, size, size, device=device)
    text = torch.zeros(n, *captions, context, dtype=torch.int64, device=device)
    wrong = torch.zeros(n, data.negatives.count, context, dtype=torch.int64, device=device)
    return Batch(image, text, tuple(map(str, range(n))), negatives=wrong if data.negatives.count else None)


def forward_flops(encoder: DualEncoder, batch: Batch) -> float:
    """Operations of a forward pass over the batch, by torch's counter."""
    from torch.utils.flop_counter import FlopCounterMode

    from vlp.training.gradient import spoken

    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        encoder(batch.image, spoken(batch))
    return float(counted.get_total_flops())


def some_pictures(run: PlannedRun) -> tuple[list[bytes], float]:
    """Encoded pictures as the run reads them, and bytes of a pair; a JPEG made here where its shards are not."""
    from data_pipelines.shards.read_samples import read_samples
    from data_pipelines.shards.shard_set import ShardSet

    try:
        shards = ShardSet.open(run.data.names[0])
        pictures = [sample.image for sample in islice(read_samples(shards), PICTURES)]
        if shards.counts[0] > 0 and shards.bytes[0] > 0:
            return pictures, shards.bytes[0] / shards.counts[0]
        return pictures, sum(map(len, pictures)) / len(pictures)
    except UserError as error:
        if not run.pair_bytes:
            raise UserError(f"{error}; or say --pair-bytes, and a JPEG of --side pixels is decoded instead") from None
    return [jpeg(run.side)], run.pair_bytes


def jpeg(side: int) -> bytes:
    """A photo-like JPEG: smooth noise, quality 90."""
    from PIL import Image

    small = Image.effect_noise((side // 4, side // 4), 80).convert("RGB")
    out = io.BytesIO()
    small.resize((side, side), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
    return out.getvalue()


def decode_seconds(run: RunConfig, pictures: Sequence[bytes]) -> float:
    """CPU seconds from the bytes of a picture to the pixels of the batch, on one thread of this machine."""
    from data_pipelines.decode import fill
    from vlp.models.image_transform import EvaluationCrop
    from vlp.pictures import Limits

    size = run.picture or run.model.transform().size
    whole = run.crop == (1.0, 1.0)
    transform = EvaluationCrop(replace(run.model.transform(), size=size)) if whole else RandomCrop(size, run.crop)
    out, rng, limits = torch.empty(3, size, size, dtype=torch.uint8), random.Random(0), Limits()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        fill(out, pictures[0], transform, rng, limits)  # imports
        began, done = time.process_time(), 0
        while done < len(pictures) or time.process_time() - began < MEASURED_S:
            fill(out, pictures[done % len(pictures)], transform, rng, limits)
            done += 1
        return (time.process_time() - began) / done
    finally:
        torch.set_num_threads(threads)
