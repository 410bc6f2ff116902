"""`vlp doctor`: runs that are bound by different things are told apart, and nothing is left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from data_pipelines.commands.build import main as build
from eval.doctor import ADVICE, Diagnosis, config_of, main
from vlp.errors import UserError

SMALL = """
out = "OUT"
data.shards = "SHARDS"
data.captions.weights = { txt = 1.0 }
data.ids = ""
model.name = "two_towers"
model.width = 16
model.image_size = 32
model.image = { name = "resnet", widths = [8], depths = [1] }
model.text = { name = "bag", hidden = 16 }
model.bpe.vocab = 300
training.samples = 100_000
training.batch = 16
training.threads = 1
"""


def pictures(folder: Path) -> Path:
    """Shards of large JPEGs: most of a step of a small model is decoding."""
    folder.mkdir()
    for i in range(16):
        noise = Image.effect_noise((700, 700), 60 + i).convert("RGB")
        noise.save(folder / f"p{i:02d}.jpg", quality=95)
        (folder / f"p{i:02d}.txt").write_text(f"noise number {i}")
    build([str(folder), str(folder / "shards")])
    return folder / "shards"


def diagnosed(folder: Path, shards: str, capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, float]:
    (folder / "preset.toml").write_text(SMALL.replace("OUT", str(folder / "run")).replace("SHARDS", shards))
    main([str(folder / "preset.toml"), "--steps", "6", "--json", *flags])
    assert {p.name for p in folder.iterdir()} - {"pictures"} == {"preset.toml"}  # nothing is left
    return dict(json.loads(capsys.readouterr().out[1:].partition("\n{")[2].join(("{", ""))))


def test_a_run_of_large_pictures_is_bound_by_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = diagnosed(tmp_path, str(pictures(tmp_path / "pictures")), capsys)
    assert tree["bound"] == "data"
    assert 0 < tree["mfu"] < 1


def test_a_run_of_a_wide_tower_is_bound_by_encoding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Encoding takes tens of times as long as reading, so that a busy machine does not turn it round."""
    wide = ("--model.image-size", "64", "--model.image.widths", "320", "--training.batch", "8")
    tree = diagnosed(tmp_path, "bundled:emoji/val", capsys, *wide)
    assert tree["bound"] == "encoding"
    assert tree["communication"] == 0
    parts = Diagnosis(**{k: v for k, v in tree.items() if k not in ("mfu", "bound")}).parts
    assert max(parts, key=parts.__getitem__) == "encoding"


@pytest.mark.slow
def test_two_ranks_communicate(tmp_path: Path) -> None:
    (tmp_path / "preset.toml").write_text(
        SMALL.replace("OUT", str(tmp_path / "run")).replace("SHARDS", "bundled:emoji/val")
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "vlp.cli"]
    flags = ["doctor", str(tmp_path / "preset.toml"), "--steps", "6", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *flags], check=True, env=environment, capture_output=True, text=True, timeout=250)
    tree = json.loads("{" + done.stdout.partition("\n{")[2])
    assert tree["communication"] > 0
    assert {p.name for p in tmp_path.iterdir()} == {"preset.toml"}


def test_every_part_has_advice() -> None:
    parts = Diagnosis(*[1.0] * 11).parts
    assert parts.keys() == ADVICE.keys()


def test_a_run_s_folder_is_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("")
    assert config_of(str(tmp_path)) == str(tmp_path / "config.toml")
    assert config_of("demo") == "demo"
    with pytest.raises(UserError, match="no preset"):
        main(["nothing"])
