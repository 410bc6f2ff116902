"""`vlp plan run`: what it counts of a preset, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from data_pipelines.shards.shard_set import ShardSet
from eval.plan_run import PlannedRun, forward_flops, main, pairs, work_of
from vlp.config import parse
from vlp.errors import UserError

LOSSES = {"infonce": 1, "siglip": 0, "hn_nce": 3}
CLUSTERS = Path(__file__).parents[2] / "slurm" / "clusters"


def test_a_run_is_counted_and_not_built(capsys: pytest.CaptureFixture[str]) -> None:
    main(["demo", "--cluster", str(CLUSTERS / "8.toml"), "--json"])
    run = json.loads(capsys.readouterr().out)
    assert run["steps"] == 489
    assert run["strategy"] in {row["name"] for row in run["strategies"]}
    main(["demo", "--cluster", str(CLUSTERS / "8.toml")])
    assert "storage bounds the run" in capsys.readouterr().out


def test_what_is_counted_is_what_the_model_has() -> None:
    run = parse(PlannedRun, ["plain", "--training.ema", "0.9"], "vlp plan run", "")
    work = work_of(run)
    encoder = run.model.build(8192)
    assert work.parameters == sum(p.numel() for p in encoder.parameters())
    assert (work.copies, work.saved) == (4, 3)  # gradient, two moments, the average
    shards = ShardSet.open("bundled:emoji/train")
    assert work.pair_bytes == shards.bytes[0] / shards.counts[0]
    tokens, width, layers, patch = 17, 192, 6, 16  # the vision transformer's matrix products, 2 operations a product
    block = 12 * width * width * tokens + 2 * tokens * tokens * width
    image = 2 * (layers * block + 16 * 3 * patch * patch * width + width * width)
    assert image < work.forward < 3 * image


@pytest.mark.parametrize("preset", sorted((CLUSTERS.parent / "examples").glob("*.toml")), ids=lambda path: path.stem)
def test_the_examples_are_presets(preset: Path) -> None:
    run = parse(PlannedRun, [str(preset)], "vlp plan run", "")
    assert run.training.precision == "bf16"
    with torch.device("meta"):
        encoder = run.model.build(49408, weights=False)
    assert encoder.logit_scale.is_meta


@pytest.mark.parametrize("preset", ["m2_bilingual"])
def test_activations_are_counted_at_the_precision_of_the_run(preset: str) -> None:
    flags = (preset, "--pair-bytes", "1000", "--data.shards", "none", "--training.no-recompute")
    half, full = (
        work_of(parse(PlannedRun, [*flags, "--training.precision", precision], "vlp plan run", "")).activations
        for precision in ("bf16", "fp32")
    )
    assert 0.3 * full < half < 0.9 * full


def test_views_and_wrong_captions_are_counted() -> None:
    more = ("--data.views", "2", "--data.captions.texts", "3", "--data.negatives.name", "swap")
    one, several = (parse(PlannedRun, ["plain", *flags], "vlp plan run", "") for flags in ((), more))
    with torch.device("meta"):
        encoder = one.model.build(8192, weights=False)
    each, all_of_them = (forward_flops(encoder, pairs(run, 1, 16, "meta")) for run in (one, several))
    text = (
        forward_flops(encoder, pairs(parse(PlannedRun, ["plain", *more[2:4]], "vlp plan run", ""), 1, 16, "meta"))
        - each
    )
    assert all_of_them == pytest.approx(2 * each + text)  # two pictures; three captions and a wrong one


def test_the_objective_says_what_travels() -> None:
    flags = ("--pair-bytes", "1000", "--data.shards", "none")
    works = [work_of(parse(PlannedRun, ["plain", *flags, "--loss.name", name], "vlp plan run", "")) for name in LOSSES]
    assert [work.statistics for work in works] == list(LOSSES.values())


def test_recomputed_blocks_keep_less() -> None:
    flags = ("--pair-bytes", "1000", "--data.shards", "none")
    kept, again = (
        work_of(parse(PlannedRun, ["plain", *flags, *more], "vlp plan run", ""))
        for more in ((), ("--training.recompute", "--training.parallel", "fsdp2"))
    )
    assert again.activations < kept.activations / 3
    assert (again.forward, again.recompute, again.parallel) == (kept.forward, True, "fsdp2")


def test_a_batch_that_the_gpus_cannot_share(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training.batch is 100, which the 8 GPUs of .*8.toml cannot share"):
        main(["demo", "--training.batch", "100", "--cluster", str(CLUSTERS / "8.toml")])
    with pytest.raises(UserError, match="or say --pair-bytes"):
        main(["demo", "--data.shards", str(tmp_path / "none"), "--cluster", str(CLUSTERS / "8.toml")])
