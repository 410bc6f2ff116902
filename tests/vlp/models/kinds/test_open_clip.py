"""Models that are kept elsewhere, with their own pixels and words; their model folders need no other place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import open_clip
import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

import vlp
from vlp.errors import UserError
from vlp.models import release
from vlp.models.image_transform import ImageTransform
from vlp.models.kinds.open_clip import OpenClip

PHOTOS = sorted((Path(__file__).parents[3] / "photos").glob("*.jpg"))
TEXTS = ["A red apple!", "a heart", "something else"]


def save_tokenizer(folder: Path) -> None:
    vocab = {"[PAD]": 0, "[UNK]": 1, "a": 2, "red": 3, "apple": 4, "heart": 5}
    fast = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=fast, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(
        folder
    )


@pytest.fixture(params=["clip", "foreign"])
def local(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder as `local-dir:` takes it, of a small model with an unusual preprocessing, and maybe a tokenizer."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    config = open_clip.get_model_config("RN50")
    config["vision_cfg"] |= {"layers": [1, 1, 1, 1], "width": 8, "image_size": 64}
    config["text_cfg"] |= {"width": 64, "heads": 2, "layers": 1, "context_length": 12}
    if request.param == "foreign":
        save_tokenizer(folder)
        config["text_cfg"] |= {"hf_tokenizer_name": "some/where", "tokenizer_kwargs": {"clean": "canonicalize"}}
    config["embed_dim"] = 32
    preprocess = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.4, 0.3], "interpolation": "bilinear"}
    preprocess |= {"resize_mode": "longest", "fill_color": 99}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    torch.manual_seed(3)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return folder


def test_a_local_model_embeds_as_open_clip_does(local: Path) -> None:
    name = f"local-dir:{local}"
    model, _, prepare = open_clip.create_model_and_transforms(name)
    ours = vlp.load(name)
    assert ours.transform == ImageTransform(64, "longest", "bilinear", 99, (0.1, 0.2, 0.3), (0.5, 0.4, 0.3))
    with torch.inference_mode():
        image = torch.stack([prepare(Image.open(path)) for path in PHOTOS])
        want_image = model.eval().encode_image(image, normalize=True)
        want_text = model.encode_text(open_clip.get_tokenizer(name)(TEXTS), normalize=True)
    torch.testing.assert_close(ours.embed_images(PHOTOS), want_image, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours.embed_texts(TEXTS), want_text, atol=1e-5, rtol=1e-4)


def test_a_model_folder_needs_the_place_no_more(local: Path, tmp_path: Path) -> None:
    config = OpenClip(f"local-dir:{local}")
    before = vlp.load(config.architecture)
    for folder in (tmp_path / "once", tmp_path / "twice"):  # what was loaded from a folder can be saved again
        release.save(folder, config=config, encoder=before.encoder, tokenizer=before.tokenizer, notes={})
        shutil.rmtree(local, ignore_errors=True)
        after = vlp.load(folder)
        assert after.transform == before.transform
        torch.testing.assert_close(after.embed_images(PHOTOS), before.embed_images(PHOTOS))
        torch.testing.assert_close(after.embed_texts(TEXTS), before.embed_texts(TEXTS))
        before, config = after, config_of(folder)


def config_of(folder: Path) -> OpenClip:
    """The configuration that a model folder holds."""
    import tomllib

    from vlp.config import build
    from vlp.models import Model

    config = build(Model, tomllib.loads((folder / "model.toml").read_text())["model"], "model")
    assert isinstance(config, OpenClip)
    return config


def test_a_place_without_a_configuration_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'configuration of "local-dir:.*" cannot be loaded'):
        vlp.load(f"local-dir:{tmp_path}")
