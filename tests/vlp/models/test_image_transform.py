"""The pixels that a model sees are those that open_clip's own transform makes, for every architecture and tag."""

from __future__ import annotations

import json
from collections import defaultdict
from functools import cache
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image
from torch import Tensor

from vlp.models.image_transform import ImageTransform
from vlp.models.kinds.open_clip import OpenClip
from vlp.models.kinds.two_towers import TwoTowers
from vlp.pictures import to_rgb

PHOTOS = sorted((Path(__file__).parents[2] / "photos").glob("*.jpg"))
PreprocessCfg = open_clip.transform.PreprocessCfg


def own(transform: ImageTransform) -> dict[str, object]:
    """The transform in open_clip's words."""
    return {
        "size": transform.size,
        "mode": "RGB",
        "mean": transform.mean,
        "std": transform.std,
        "interpolation": transform.interpolation,
        "resize_mode": transform.resize,
        "fill_color": transform.fill,
    }


def theirs(config: dict[str, object], picture: Image.Image) -> Tensor:
    """What open_clip makes of a picture, before it is normalised: [3, H, W] of 255."""
    whole = open_clip.transform.image_transform_v2(PreprocessCfg(**config), is_train=False)
    for step in whole.transforms[:-1]:
        picture = step(picture)
    return picture * 255


def expected(architecture: str, tag: str) -> dict[str, object]:
    """open_clip's configuration of the preprocessing, merged as its factory merges it."""
    size = open_clip.get_model_config(architecture)["vision_cfg"].get("image_size", 224)
    merged = open_clip.transform.merge_preprocess_dict(PreprocessCfg(), open_clip.get_pretrained_cfg(architecture, tag))
    return {**merged, "size": size}


@cache
def pictures() -> dict[str, Image.Image]:
    """Photographs, and shapes and modes that go wrong: wide, tall, tiny, grey, see-through."""
    photo = Image.open(PHOTOS[0]).convert("RGB")
    flower = Image.open(PHOTOS[1]).convert("RGB")
    clear = flower.crop((0, 0, 300, 200)).convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    return {
        "photo": photo,
        "square": flower.crop((100, 0, 500, 400)),
        "wide": photo.crop((0, 100, 640, 220)),
        "tall": flower.crop((200, 0, 301, 427)),
        "tiny": photo.crop((300, 200, 313, 209)),
        "odd": flower.crop((0, 0, 447, 383)),
        "grey": photo.convert("L"),
        "clear": to_rgb(clear),  # on white, as vlp lays it; open_clip would show what is under the transparency
        "gradient": Image.radial_gradient("L").convert("RGB").resize((500, 260)),
        "fractal": Image.effect_mandelbrot((330, 290), (-2, -1, 1, 1), 60).convert("RGB"),
    }


def test_every_tag_gets_the_pixels_of_open_clip() -> None:
    groups: dict[tuple[ImageTransform, str], list[tuple[str, str]]] = defaultdict(list)
    for architecture, tag in open_clip.list_pretrained():
        config = expected(architecture, tag)
        ours = OpenClip(architecture, tag).transform()
        assert own(ours) == {**config, "mean": tuple(config["mean"]), "std": tuple(config["std"])}, (architecture, tag)
        groups[ours, json.dumps(config)].append((architecture, tag))
    assert len(groups) > 20
    for (ours, config), tags in groups.items():
        for name, picture in pictures().items():
            want = theirs(json.loads(config), picture)
            assert torch.equal(ours(picture).float(), want.round()), f"{name} is not the same for {tags}"


@pytest.mark.parametrize("resize", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_every_way_to_resize_is_that_of_open_clip(resize: str, interpolation: str) -> None:
    for size, fill in ((64, 0), (224, 127)):
        ours = ImageTransform(size, resize, interpolation, fill)  # type: ignore[arg-type]
        for name, picture in pictures().items():
            assert torch.equal(ours(picture).float(), theirs(own(ours), picture).round()), (name, size)


@pytest.mark.parametrize("shape", [(1, 300), (2000, 40), (33, 2001), (5, 94)])
def test_strips_are_cut_where_open_clip_cuts_them(shape: tuple[int, int]) -> None:
    """To a pixel: they are cut before they are scaled, as their scaled size has no bounds."""
    strip = Image.radial_gradient("L").convert("RGB").resize(shape)
    for resize in ("shortest", "longest", "squash"):
        ours = ImageTransform(32, resize)  # type: ignore[arg-type]
        if resize == "longest" and shape == (1, 300):
            continue  # open_clip scales its shorter side to nothing, and fails
        assert (ours(strip).float() - theirs(own(ours), strip)).abs().mean() <= 1


def test_a_line_of_any_length_is_taken() -> None:
    for shape in ((1, 3_000_000), (3_000_000, 1)):
        for resize in ("shortest", "longest", "squash"):
            picture = ImageTransform(224, resize)(Image.new("RGB", shape, "white"))  # type: ignore[arg-type]
            assert picture.shape == (3, 224, 224)


def test_no_weights_are_open_clips_defaults_and_another_size_is_taken() -> None:
    assert own(OpenClip("ViT-B-16-SigLIP", image_size=96).transform()) == {**vars(PreprocessCfg()), "size": 96}


def test_two_towers_say_themselves_how_pictures_are_prepared() -> None:
    config = TwoTowers(image_size=48, resize="longest", interpolation="bilinear", fill=255, mean=(0.5,) * 3)
    assert config.transform() == ImageTransform(48, "longest", "bilinear", 255, (0.5,) * 3, config.std)
    assert TwoTowers(image_size=48).transform() == ImageTransform(48, "shortest", "bicubic")
