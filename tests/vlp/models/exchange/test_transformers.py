"""Folders of transformers, in and out: the same embeddings, and what does not fit is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import transformers

from eval.exchange import Export, Import, run_export, run_import
from tests.vlp.models.exchange.tiny_models import TINY, changed, save_tokenizer, write_clip, write_folder, write_siglip
from vlp.config import build, to_tree
from vlp.errors import UserError
from vlp.models import Model, release
from vlp.models.kinds.transformers import Transformers


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("write", [write_clip, write_siglip])
def test_a_folder_comes_in_and_goes_out_as_it_was(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    folder = write(tmp_path / "theirs")
    run_import(Import(folder, tmp_path / "ours"))
    run_export(Export(str(tmp_path / "ours"), tmp_path / "again", "transformers"))
    first, second = (transformers.AutoModel.from_pretrained(place) for place in (folder, tmp_path / "again"))
    assert all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())
    assert first.config.to_diff_dict() == second.config.to_diff_dict()
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    assert (
        theirs(["a red frog"])["input_ids"]
        == transformers.AutoTokenizer.from_pretrained(folder)(["a red frog"])["input_ids"]
    )


def test_its_configuration_is_a_preset_and_trains(tmp_path: Path) -> None:
    config = Transformers(str(write_siglip(tmp_path / "theirs")))
    assert build(Model, {"name": "transformers", **to_tree(config)}) == config
    encoder = config.build(config.tokenizer(()).vocab).train()
    text = config.tokenizer(())(["a red frog", "a face"])
    out = encoder(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), text)
    (out.image * out.text).sum().backward()
    assert all(p.grad is not None for name, p in encoder.named_parameters() if "logit" not in name)


@pytest.mark.parametrize("quick", [False, True])
def test_a_clip_of_open_clip_is_a_clip_model(tmp_path: Path, quick: bool) -> None:
    folder = write_folder(tmp_path / "theirs", changed(TINY, quick_gelu=quick))
    run_import(Import(folder, tmp_path / "ours"))
    run_export(Export(str(tmp_path / "ours"), tmp_path / "out", "transformers"))
    model = transformers.CLIPModel.from_pretrained(tmp_path / "out")
    assert (
        model.config.vision_config.hidden_act
        == model.config.text_config.hidden_act
        == ("quick_gelu" if quick else "gelu")
    )
    run_import(Import(tmp_path / "out", tmp_path / "back"))
    run_export(Export(str(tmp_path / "back"), tmp_path / "open_clip", "open_clip"))
    before, after = (release.load(f"local-dir:{place}") for place in (folder, tmp_path / "open_clip"))
    after_state = after.encoder.state_dict()
    assert all(torch.equal(value, after_state[key]) for key, value in before.encoder.state_dict().items())


@pytest.mark.slow
def test_a_siglip_of_open_clip_is_a_siglip_model(tmp_path: Path) -> None:
    """Its image tower is timm's ViT-B/16, at 32 pixels; the text tower is small, with a tokenizer of its own."""
    text = {"context_length": 24, "vocab_size": 400, "width": 64, "heads": 4, "layers": 2, "hf_tokenizer_name": "own"}
    text |= {"no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}}
    vision = {"image_size": 224, "timm_model_name": "vit_base_patch16_siglip_224"}
    vision |= {"timm_pool": "map", "timm_proj": "none"}
    model = {"embed_dim": 768, "init_logit_bias": -10, "vision_cfg": vision, "text_cfg": text}
    folder = write_folder(tmp_path / "theirs", model, kind=open_clip.CustomTextCLIP)
    save_tokenizer(folder, pad="<end>")
    run_import(Import(folder, tmp_path / "ours"))
    run_export(Export(str(tmp_path / "ours"), tmp_path / "out", "transformers"))
    assert isinstance(transformers.AutoModel.from_pretrained(tmp_path / "out"), transformers.SiglipModel)
    run_import(Import(tmp_path / "out", tmp_path / "back"))
    texts = ["a red frog", "a smile"]
    first, second = (release.load(tmp_path / name).embed_texts(texts) for name in ("ours", "back"))
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize(
    ("file", "changes", "sentence"),
    [
        ("config.json", {"model_type": "blip"}, "\"model_type\" is 'blip'"),
        ("preprocessor_config.json", {"resample": 1}, "has resample = 1"),
        ("preprocessor_config.json", {"rescale_factor": 1.0}, "has rescale_factor = 1.0"),
        ("preprocessor_config.json", {"crop_size": {"height": 40, "width": 40}}, "has size = .*squares of 32"),
        ("preprocessor_config.json", {"do_normalize": False}, "has do_normalize = False"),
        ("tokenizer_config.json", {"model_max_length": 20}, "cuts texts at 20 tokens .* has a context length of 16"),
        ("tokenizer_config.json", {"eos_token": "<pad>"}, "ends texts with token 0, but the model reads 3"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_named(
    tmp_path: Path, file: str, changes: dict[str, Any], sentence: str
) -> None:
    folder = write_clip(tmp_path / "theirs")
    edit(folder / file, **changes)
    with pytest.raises(UserError, match=sentence):
        run_import(Import(folder, tmp_path / "ours"))
    assert not any("ours" in path.name for path in tmp_path.iterdir())


def test_weights_in_a_pickle_are_not_opened(tmp_path: Path) -> None:
    folder = write_clip(tmp_path / "theirs")
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot be opened by transformers"):
        run_import(Import(folder, tmp_path / "ours"))


def test_activations_that_differ_have_no_place_in_open_clip(tmp_path: Path) -> None:
    run_import(Import(write_clip(tmp_path / "theirs", hidden_act="gelu"), tmp_path / "ours"))
    with pytest.raises(UserError, match="the activations gelu and quick_gelu, but open_clip knows"):
        run_export(Export(str(tmp_path / "ours"), tmp_path / "out", "open_clip"))
