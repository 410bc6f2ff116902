"""Small models of other programs, with random weights."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import open_clip
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer

from vlp.models.tokenizer import END, PAD, START, Bpe

TINY: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
MEAN, STD = [0.5, 0.4, 0.3], [0.3, 0.25, 0.2]


def changed(tree: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A copy of a configuration with other values, by path: vision_cfg__width."""
    tree = json.loads(json.dumps(tree))
    for path, value in changes.items():
        *steps, key = path.split("__")
        at = tree
        for step in steps:
            at = at[step]
        at[key] = value
    return tree


def clip(model: dict[str, Any] = TINY, kind: Any = open_clip.CLIP) -> torch.nn.Module:
    """A model of open_clip whose weights, biases included, are random."""
    torch.manual_seed(0)
    built = kind(**model)
    with torch.no_grad():
        for p in built.parameters():
            p.add_(torch.randn_like(p) * 0.02)
    return built.eval()


def write_folder(folder: Path, model: dict[str, Any] = TINY, kind: Any = open_clip.CLIP) -> Path:
    folder.mkdir()
    save_file(
        {k: v.contiguous() for k, v in clip(model, kind).state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    custom = {"custom_text": True} if kind is open_clip.CustomTextCLIP else {}
    tree = {"model_cfg": {**model, **custom}, "preprocess_cfg": {"mean": MEAN, "std": STD, "resize_mode": "squash"}}
    (folder / "open_clip_config.json").write_text(json.dumps(tree))
    return folder


def know_tiny_architectures(folder: Path) -> str:
    """The name of an architecture that open_clip knows from now on, with the sizes of TINY; there are two others."""
    folder.mkdir()
    (folder / "tiny-test.json").write_text(json.dumps(TINY))
    (folder / "tiny-test-quickgelu.json").write_text(json.dumps({**TINY, "quick_gelu": True}))
    (folder / "tiny-test-30.json").write_text(json.dumps(changed(TINY, text_cfg__context_length=30)))
    open_clip.add_model_config(folder)
    return "tiny-test"


def write_clip(folder: Path, **vision: Any) -> Path:
    """A folder of transformers with a CLIPModel, a BPE of its own and a preparation of 32 pixels."""
    configuration = transformers.CLIPConfig(
        text_config={**TEXT, "eos_token_id": END, "bos_token_id": START, "pad_token_id": PAD, "projection_dim": 24},
        vision_config={**VISION, "projection_dim": 24, **vision},
        projection_dim=24,
    )
    return _write(folder, transformers.CLIPModel, configuration)


def write_siglip(folder: Path) -> Path:
    """A folder of transformers with a SiglipModel."""
    configuration = transformers.SiglipConfig(
        text_config={**TEXT, "pad_token_id": END, "projection_size": 48}, vision_config=VISION
    )
    return _write(folder, transformers.SiglipModel, configuration)


VISION = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3}
VISION |= {"image_size": 32, "patch_size": 8}
TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT |= {"vocab_size": 400, "max_position_embeddings": 16}


def _write(folder: Path, kind: Any, configuration: Any) -> Path:
    torch.manual_seed(0)
    model = kind(configuration)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.02)
    model.save_pretrained(folder)
    clip_like = kind is transformers.CLIPModel
    save_tokenizer(folder, pad="<pad>" if clip_like else "<end>")
    side = {"height": 32, "width": 32}
    processor = (
        transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=side)
        if clip_like
        else transformers.SiglipImageProcessor(size=side)
    )
    processor.save_pretrained(folder)
    return folder


def save_tokenizer(folder: Path, pad: str) -> None:
    """A BPE as transformers keeps it."""
    with tempfile.TemporaryDirectory() as place:
        Bpe(vocab=400, context=16).train(["a red face with a smile", "the green frog"] * 3).save(
            Path(place) / "bpe.json"
        )
        fast = Tokenizer.from_file(str(Path(place) / "bpe.json"))
    fast.no_truncation()
    names = {"bos_token": "<start>", "eos_token": "<end>", "pad_token": pad}
    transformers.PreTrainedTokenizerFast(tokenizer_object=fast, **names).save_pretrained(folder)


def write_checkpoint(path: Path, said: str = "", **state: Any) -> Path:
    """epoch_1.pt as open_clip's training program writes it from a DDP model, with params.txt if something is `said`."""
    path.mkdir(parents=True)
    weights = {f"module.{k}": v for k, v in clip().state_dict().items()}
    torch.save(
        {"epoch": 1, "name": "run", "state_dict": weights, "optimizer": {"state": {}}, **state}, path / "epoch_1.pt"
    )
    if said:
        (path.parent / "params.txt").write_text(said)
    return path / "epoch_1.pt"
