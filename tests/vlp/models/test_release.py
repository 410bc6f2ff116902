"""Model folders: what is saved is what is loaded, and a folder that was touched is refused."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image

from vlp.errors import UserError
from vlp.models import release
from vlp.models.kinds.open_clip import OpenClip
from vlp.models.kinds.two_towers import TwoTowers
from vlp.models.text.transformer import Transformer

SMALL = TwoTowers(width=16, text=Transformer(hidden=32, layers=1, heads=2))
CAPTIONS = ["grinning face", "red apple", "红苹果"] * 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = SMALL.tokenizer(CAPTIONS)
    encoder = SMALL.build(tokenizer.vocab).eval()
    release.save(tmp_path / "model", config=SMALL, encoder=encoder, tokenizer=tokenizer, notes={"seed": "0"})
    return tmp_path / "model"


def test_a_loaded_model_embeds_as_the_saved_one(folder: Path) -> None:
    model = release.load(folder)
    torch.manual_seed(0)
    again = SMALL.build(model.tokenizer.vocab).eval()
    torch.testing.assert_close(model.embed_texts(CAPTIONS), again.encode_text(model.tokenizer(CAPTIONS)))
    assert model.embed_images([Image.new("RGB", (70, 90), "red")]).norm().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_missing_and_altered_files_are_refused(folder: Path, file: str) -> None:
    with (folder / file).open("ab") as f:
        f.write(b" ")
    with pytest.raises(UserError, match=f"{file} is not the file that was saved"):
        release.load(folder)
    (folder / file).unlink()
    with pytest.raises(UserError, match=f"misses {file}"):
        release.load(folder)


def test_a_folder_without_model_toml_and_an_unknown_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a model folder"):
        release.load(tmp_path)
    with pytest.raises(UserError, match='did you mean "ViT-B-32"'):
        release.load("ViT-B-3")


def test_open_clip_models_embed_as_open_clip_does(tmp_path: Path) -> None:
    """Same weights, same tokens, same picture: the towers and the preprocessing are open_clip's own."""
    torch.manual_seed(0)
    theirs = open_clip.create_model("RN50", load_weights=False, force_image_size=64, force_custom_text=True).eval()
    config = OpenClip("RN50", image_size=64)
    ours = config.build(0).eval()
    ours.image_tower.load_state_dict(theirs.visual.state_dict())
    ours.text_tower.load_state_dict(theirs.text.state_dict())
    picture = Image.effect_mandelbrot((90, 70), (-2, -1, 1, 1), 50).convert("RGB")
    cfg = open_clip.get_model_preprocess_cfg(theirs)
    cfg.pop("mode")
    prepare = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(**{**cfg, "size": (64, 64)}), False
    )
    tokens = open_clip.get_tokenizer("RN50")(["a mandelbrot set"])
    with torch.inference_mode():
        want_image = theirs.encode_image(prepare(picture)[None], normalize=True)
        want_text = theirs.encode_text(tokens, normalize=True)
    ready = release.Release(ours, config.tokenizer(()), config.transform(), "0", "RN50")
    torch.testing.assert_close(ready.embed_images([picture]), want_image, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ready.embed_texts(["a mandelbrot set"]), want_text, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture",
    ["ViT-B-32-quickgelu", "coca_ViT-B-32", "ViT-B-16-SigLIP", "convnext_base_w", "EVA02-B-16", "ViTamin-S"],
)
def test_every_family_of_open_clip_embeds_as_its_own_model_does(architecture: str) -> None:
    config = OpenClip(architecture)
    torch.manual_seed(0)
    ours = config.build(0).eval()
    torch.manual_seed(0)
    theirs = open_clip.create_model(architecture, load_weights=False, force_custom_text=True).eval()
    pixels = torch.rand(2, 3, config.transform().size, config.transform().size)
    text = torch.randint(1, 300, (2, open_clip.get_model_config(architecture)["text_cfg"]["context_length"]))
    with torch.inference_mode():
        torch.testing.assert_close(ours.encode_image(pixels), theirs.encode_image(pixels, normalize=True))
        torch.testing.assert_close(ours.encode_text(text), theirs.encode_text(text, normalize=True))
