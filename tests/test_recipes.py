"""Runs that start from other models, adapt them, and go on: train.py as a person uses it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import train
from vlp.errors import UserError
from vlp.models import release

VIT = (
    *("plain", "--data.shards", "bundled:emoji/val", "--model.width", "16", "--model.bpe.vocab", "600"),
    *(
        "--model.image.options.depth",
        "2",
        "--model.image.options.embed_dim",
        "24",
        "--model.image.options.num_heads",
        "2",
    ),
    *("--model.text.hidden", "24", "--model.text.layers", "1", "--training.batch", "64", "--training.samples", "192"),
    *(
        "--training.log-every",
        "1",
        "--training.no-tensorboard",
        "--training.checkpoint-every",
        "0",
        "--training.keep",
        "9",
    ),
)


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a small ViT."""
    out = tmp_path_factory.mktemp("runs") / "first"
    assert train.main([*VIT, "--out", str(out)]) == 0
    return out


def test_a_run_starts_from_a_model_folder_and_goes_on_without_it(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another width of the shared space, larger pictures, and other captions for a tokenizer that is not trained."""
    model = tmp_path / "theirs"
    shutil.copytree(finished / "model", model)
    flags = [*VIT, "--out", str(tmp_path / "run"), "--model.width", "20", "--model.image-size", "96"]
    flags += ["--data.captions.weights.zh", "0", "--training.init", str(model)]
    assert train.main(flags) == 0
    said = (tmp_path / "run" / "init.txt").read_text()
    assert said in capsys.readouterr().out
    assert "pos_embed: 1 x 17 x 24 to 1 x 37 x 24" in said
    assert "head.weight: 16 x 24 there, 20 x 24 here" in said
    whole = losses(tmp_path / "run")
    assert (tmp_path / "run" / "model" / "tokenizer.json").read_text() == (model / "tokenizer.json").read_text()
    first = release.load(tmp_path / "run" / "model").id
    assert f'init = "{model}"' in (tmp_path / "run" / "model" / "model.toml").read_text()
    shutil.rmtree(model)
    for later in sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[1:]:
        shutil.rmtree(later)
    assert train.main(flags) == 0
    assert losses(tmp_path / "run") == whole
    assert release.load(tmp_path / "run" / "model").id == first


def test_a_new_vocabulary_takes_the_embeddings_of_shared_tokens(finished: Path, tmp_path: Path) -> None:
    flags = [*VIT, "--out", str(tmp_path), "--training.init", str(finished / "model"), "--training.no-init-tokenizer"]
    assert train.main([*flags, "--model.bpe.vocab", "500"]) == 0
    assert "of 500 tokens are in the other vocabulary too" in (tmp_path / "init.txt").read_text()
    assert release.load(tmp_path / "model").tokenizer.vocab == 500


def test_what_was_left_half_written_is_nothing_to_go_on_from(finished: Path, tmp_path: Path) -> None:
    """A run that was killed within its first checkpoint starts from its init again, to the same weights."""
    flags = [*VIT, "--training.init", str(finished / "model")]
    assert train.main([*flags, "--out", str(tmp_path / "whole")]) == 0
    (tmp_path / "killed" / "checkpoints").mkdir(parents=True)
    (tmp_path / "killed" / "checkpoints" / ".step-00000001.pt.part").write_bytes(b"half")
    assert train.main([*flags, "--out", str(tmp_path / "killed")]) == 0
    assert release.load(tmp_path / "killed" / "model").id == release.load(tmp_path / "whole" / "model").id


def test_an_init_that_does_not_fit_is_refused_before_anything_is_written(finished: Path, tmp_path: Path) -> None:
    flags = [*VIT, "--out", str(tmp_path / "run"), "--training.init", str(finished / "model")]
    with pytest.raises(UserError, match=r"training.init: nothing of .* fits this model"):
        train.main([*flags, "--model.image.options.embed_dim", "48", "--model.text.hidden", "48"])
    with pytest.raises(UserError, match="there is no model folder"):
        train.main([*VIT, "--out", str(tmp_path / "run"), "--training.init", "no/such/model"])
    with pytest.raises(UserError, match=r"towers.image.lora.targets names \"nothing\".*there are: attn.proj, attn.qkv"):
        train.main([*flags, "--towers.image.lora.rank", "4", "--towers.image.lora.targets", "nothing"])
    assert {p.name for p in (tmp_path / "run").iterdir()} <= {".lock", "tokenizer.json"}


def test_adapters_are_trained_resumed_and_merged_into_the_model_folder(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = [*VIT, "--out", str(out), "--training.init", str(finished / "model"), "--training.ema", "0.5"]
    flags += ["--towers.image.lora.rank", "4", "--towers.text.lora.rank", "4", "--towers.text.trained-layers", "1"]
    assert train.main(flags) == 0
    before, after = (release.load(folder / "model").encoder.state_dict() for folder in (finished, out))
    assert before.keys() == after.keys()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert "image_tower.blocks.0.attn.qkv.weight" in changed
    assert "text_tower.layers.layers.0.self_attn.in_proj_weight" in changed
    assert "text_tower.head.weight" in changed  # its topmost layer is free
    assert not {"image_tower.head.weight", "image_tower.pos_embed", "text_tower.token.weight"} & changed, sorted(
        changed - {k for k in changed if ".blocks." in k or ".layers." in k}
    )
    id, whole = release.load(out / "model").id, losses(out)
    for later in sorted((out / "checkpoints").glob("step-*"))[1:]:
        shutil.rmtree(later)
    assert train.main(flags) == 0
    assert losses(out) == whole
    assert release.load(out / "model").id == id


def test_a_finished_run_is_extended(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    flags = [*VIT, "--out", str(out), "--training.samples", "320"]
    with pytest.raises(UserError, match=r"training.samples is 192, here it is 320"):
        train.main(flags)
    assert train.main([*flags, "--training.resume-from", "extend"]) == 0
    assert "extended: 192 of 192 pairs were seen, and 320 are wanted now" in capsys.readouterr().out
    assert len(losses(out)) == 5
    assert losses(out)[:3] == losses(finished)
    assert "samples = 320" in (out / "config.toml").read_text()


ADAPTED = (
    "--training.precision",
    "fp64",
    "--towers.text.lora.rank",
    "2",
    "--towers.image.lock",
    "--towers.image.unlock-after",
)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_two_ranks_adapt_and_unlock_as_one_does(finished: Path, tmp_path: Path, parallel: str) -> None:
    """In float64, from the same model: adapters in one tower, a lock that opens after a step in the other."""
    flags = [*VIT, *ADAPTED, "64", "--towers.image.unlock-every", "64", "--training.init", str(finished / "model")]
    assert train.main([*flags, "--out", str(tmp_path / "one")]) == 0
    root = Path(__file__).parents[1]
    command = [str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc-per-node", "2", "train.py"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [*command, *flags, "--training.parallel", parallel, "--out", str(tmp_path / "two")]
    done = subprocess.run(words, cwd=root, env=env, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-12)
    one, two = (release.load(tmp_path / run / "model").encoder.state_dict() for run in ("one", "two"))
    before = release.load(finished / "model").encoder.state_dict()
    head = "image_tower.head.weight"
    assert not torch.equal(before[head], one[head])
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-5, atol=1e-7)
