"""Runs with a teacher from the first flag to the model folder, and those that are refused before their first step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import train
from eval.embeddings.embed import embed
from vlp.errors import UserError
from vlp.models import release as releases
from vlp.models.image.resnet import ResNet
from vlp.models.kinds.two_towers import TwoTowers
from vlp.models.text.bag import Bag
from vlp.models.tokenizer import Bpe

ROOT = Path(__file__).parents[3]
DATA = "bundled:emoji/test_attr"
RUN = (
    *("demo", "--data.shards", DATA, "--model.image.widths", "8", "16", "--model.image.depths", "1", "1"),
    *("--model.width", "16", "--model.text.hidden", "32", "--model.bpe.vocab", "300", "--training.batch", "32"),
    *("--training.samples", "64", "--training.log-every", "1", "--training.no-tensorboard"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of another width, size and tokenizer than the run's."""
    where = tmp_path_factory.mktemp("teacher") / "model"
    small = TwoTowers(width=12, image=ResNet(widths=(8,), depths=(1,)), image_size=32, text=Bag(hidden=8), bpe=Bpe(270))
    torch.manual_seed(0)
    tokenizer = small.tokenizer(["a red heart", "a green apple"])
    releases.save(where, config=small, encoder=small.build(tokenizer.vocab), tokenizer=tokenizer, notes={})
    return where


@pytest.fixture(scope="module")
def vectors(folder: Path) -> Path:
    """What that model makes of the data of the run."""
    embed(releases.load(folder), DATA, folder.parent / "vectors", dtype="float16")
    return folder.parent / "vectors"


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_each_teacher_is_named_by_flags_and_listened_to(folder: Path, vectors: Path, tmp_path: Path) -> None:
    distill = ("--loss.name", "distill", "--loss.share", "1.0")
    taught: dict[str, tuple[str, ...]] = {
        "frozen": (*distill, "--teacher.name", "frozen", "--teacher.model", str(folder), "--training.chunk", "8"),
        "stored": (*distill, "--teacher.name", "stored", "--teacher.folder", str(vectors)),
        "momentum": (*distill, "--teacher.name", "momentum", "--teacher.decay", "0.5"),
        "own": ("--loss.name", "cwcl", "--teacher.name", "own", "--towers.image.lock"),
    }
    for name, flags in taught.items():
        assert train.main([*RUN, *flags, "--out", str(tmp_path / name)]) == 0
        assert releases.load(tmp_path / name / "model").embed_texts(["a red heart"]).isfinite().all()
    every = [losses(tmp_path / name) for name in taught]
    assert all(len(curve) == 2 for curve in every)
    assert len({curve[0] for curve in every}) == 4  # from the first step on each says something else
    with pytest.raises(UserError, match=r"there teacher\.decay is 0\.5, here it is 0\.6"):
        train.main([*RUN, *taught["momentum"], "--teacher.decay", "0.6", "--out", str(tmp_path / "momentum")])
    moved = folder.rename(folder.with_name("moved"))  # the same weights elsewhere are the same teacher
    try:
        flags = [*RUN, *taught["frozen"], "--teacher.model", str(moved), "--out", str(tmp_path / "frozen")]
        assert train.main(flags) == 0
    finally:
        moved.rename(folder)


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (("--loss.name", "distill"), 'loss.name "distill" needs a teacher: set teacher.name to frozen'),
        (("--loss.name", "moco"), 'loss.name "moco" needs a teacher'),
        (("--teacher.name", "momentum"), 'loss.name "multi_positive" asks no teacher'),
        (("--loss.name", "moco", "--loss.keys", "own", "--teacher.name", "momentum"), '"moco" asks no teacher'),
        (("--loss.name", "cwcl", "--teacher.name", "own"), "no tower of this model is locked as a whole"),
        (("--loss.name", "distill", "--teacher.name", "frozen"), "teacher.model is empty"),
        (("--loss.name", "distill", "--teacher.name", "stored"), "teacher.folder is empty"),
        (("--loss.name", "distill", "--teacher.name", "momentun"), 'did you mean "momentum"'),
        (
            ("--loss.name", "distill", "--teacher.name", "momentum", "--teacher.decay", "1"),
            "it should be 0 or more and",
        ),
    ],
    ids=lambda v: v[-1] if isinstance(v, tuple) else "",
)
def test_a_teacher_that_cannot_teach_is_refused_in_a_sentence(
    flags: tuple[str, ...], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        train.main([*RUN, *flags, "--out", str(tmp_path / "run")])
    assert sentence in str(caught.value)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_vectors_of_other_samples_and_of_another_width_are_refused_before_the_first_step(
    folder: Path, vectors: Path, tmp_path: Path
) -> None:
    flags = ["--loss.name", "moco", "--loss.queue", "64", "--teacher.name", "frozen", "--teacher.model", str(folder)]
    with pytest.raises(UserError, match="the teacher's vectors have width 12, but this objective wants 16"):
        train.main([*RUN, *flags, "--out", str(tmp_path / "run")])
    flags = ["--loss.name", "distill", "--teacher.name", "stored", "--teacher.folder", str(vectors)]
    with pytest.raises(UserError, match=r"vectors lacks [\d,]+ of the [\d,]+ samples of this run, such as "):
        train.main([*RUN, "--data.shards", "bundled:emoji/val", *flags, "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["frozen", "stored", "albef"])
def test_two_ranks_hear_what_one_process_hears(kind: str, folder: Path, vectors: Path, tmp_path: Path) -> None:
    """In float64, through torchrun: the same curve, with several captions a picture."""
    words = {
        "frozen": ("--loss.name", "distill", "--teacher.name", "frozen", "--teacher.model", str(folder)),
        "stored": ("--loss.name", "distill", "--teacher.name", "stored", "--teacher.folder", str(vectors)),
        "albef": ("--loss.name", "albef", "--loss.queue", "96", "--teacher.name", "momentum", "--teacher.decay", "0.8"),
    }[kind]
    flags = (*RUN, "--training.precision", "fp64", "--training.samples", "256", *words)
    assert train.main([*flags, "--out", str(tmp_path / "one")]) == 0
    torchrun = (str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc-per-node", "2", "train.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*torchrun, *flags, "--out", str(tmp_path / "two")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-11)
    assert len(losses(tmp_path / "two")) == 8
