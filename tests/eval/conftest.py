"""A small model and small shards: real ones, written and read by the code under test."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from data_pipelines.sample import Sample
from vlp.models import release as releases
from vlp.models.image.timm import Timm
from vlp.models.kinds.two_towers import TwoTowers
from vlp.models.release import Release
from vlp.models.text.transformer import Transformer

COLOURS = {"red": "红", "green": "绿", "blue": "蓝", "gold": "金", "black": "黑", "pink": "粉"}
SHAPES = {"circle": "圆", "square": "方块"}
MODEL = TwoTowers(
    width=32,
    image=Timm(architecture="resnet10t", options={"in_chans": 3}),
    image_size=32,
    text=Transformer(hidden=32, layers=1, heads=2),
)


def drawing(colour: str, shape: str, *, shift: int = 0) -> bytes:
    """PNG of a shape, 48 x 40 pixels."""
    picture = Image.new("RGB", (48, 40), "white")
    draw = ImageDraw.Draw(picture)
    box = (6 + shift, 6, 34 + shift, 34)
    draw.ellipse(box, fill=colour) if shape == "circle" else draw.rectangle(box, fill=colour)
    held = io.BytesIO()
    picture.save(held, "png")
    return held.getvalue()


def drawings() -> list[Sample]:
    """24 pictures of 12 things, each drawn by two artists, named in two languages."""
    return [
        Sample(
            key=f"{colour}_{shape}_{artist}",
            image=drawing(colour, shape, shift=5 * artist),
            image_format="png",
            captions={"en": f"{colour} {shape}", "zh": f"{COLOURS[colour]}{SHAPES[shape]}"},
            metadata={"subgroup": shape, "artist": f"artist {artist}"},
        )
        for artist in range(2)
        for colour in COLOURS
        for shape in SHAPES
    ]


def write_shards(folder: Path, samples: list[Sample], *, per_shard: int = 9) -> Path:
    """A shard folder with a manifest."""
    folder.mkdir(parents=True)
    rows = []
    for start in range(0, len(samples), per_shard):
        path = folder / f"{start // per_shard:05d}.tar"
        some = samples[start : start + per_shard]
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for sample in some:
                for name, data in sample.members():
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        data = path.read_bytes()
        rows.append(
            {"file": path.name, "samples": len(some), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        )
    manifest = {"format": "vlp-shards-1", "name": folder.name, "shards": rows, "samples": len(samples), "counts": {}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("data") / "shapes", drawings())


def save_model(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    tokenizer = MODEL.tokenizer([text for sample in drawings() for text in sample.captions.values()])
    encoder = MODEL.build(tokenizer.vocab).eval()
    releases.save(folder, config=MODEL, encoder=encoder, tokenizer=tokenizer, notes={"seed": str(seed)})
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("run") / "model", 0)


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("other") / "model", 1)


@pytest.fixture(scope="session")
def release(model_folder: Path) -> Release:
    return releases.load(model_folder)


@pytest.fixture(scope="session")
def samples() -> list[Sample]:
    return drawings()


@pytest.fixture(scope="session")
def write() -> Callable[..., Path]:
    return write_shards


WDS_NAMES = ["cat", "dog", "cow", "fox", "owl", "bee"]


def written_wds(
    root: Path, rows: list[Mapping[str, bytes]], *, kind: str = "", per_tar: int = 3, names: int = 3
) -> Path:
    """CLIP_benchmark's layout: `rows` as members by ending, `per_tar` of them in a tar."""
    (root / "test").mkdir(parents=True)
    for number, start in enumerate(range(0, len(rows), per_tar)):
        with tarfile.open(root / "test" / f"{number}.tar", "w") as tar:
            for place, row in enumerate(rows[start : start + per_tar], start):
                for ending, data in row.items():
                    member = tarfile.TarInfo(f"s{place:07d}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    (root / "test" / "nshards.txt").write_text(f"{-(-len(rows) // per_tar)}\n")
    if kind:
        (root / "dataset_type.txt").write_text(f"{kind}\n")
    if kind != "retrieval":
        (root / "classnames.txt").write_text("\n".join(WDS_NAMES[:names]) + "\n")
        (root / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\na {c}\n")
    return root


@pytest.fixture(scope="session")
def write_wds() -> Callable[..., Path]:
    return written_wds
