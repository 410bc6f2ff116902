"""Weights are told by their origin, and refused where the model would use them otherwise than they were trained."""

from __future__ import annotations

import doctest
import json
from pathlib import Path

import open_clip
import pytest
from huggingface_hub import constants

from vlp.errors import UserError
from vlp.models import origin, release
from vlp.models.image_transform import ImageTransform
from vlp.models.kinds.open_clip import OpenClip

LAION = "vit_b_32-quickgelu-laion400m_e32-46683a32.pt"
SIGLIP = "timm/ViT-B-16-SigLIP"


def test_docstring_examples() -> None:
    assert doctest.testmod(origin).failed == 0


def test_a_downloaded_checkpoint_is_known_by_the_checksum_in_its_name(tmp_path: Path) -> None:
    file = tmp_path / LAION
    file.write_bytes(b"weights")
    assert OpenClip("ViT-B-32-quickgelu", str(file)).origin() == [
        ("ViT-B-32", "laion400m_e32"),
        ("ViT-B-32-quickgelu", "laion400m_e32"),
    ]
    with pytest.raises(UserError, match=r"were trained with QuickGELU.*name them as ViT-B-32-quickgelu:laion400m_e32"):
        release.load(f"ViT-B-32:{file}")


def test_a_renamed_checkpoint_is_known_by_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mine.pt"
    file.write_bytes(b"weights")
    assert origin.tags_of(str(file)) == []
    known = {**open_clip.get_pretrained_cfg("ViT-B-32", "laion400m_e32")}
    digest = origin.sha256(file)
    monkeypatch.setitem(
        open_clip.pretrained._VITB32, "laion400m_e32", {**known, "url": f"https://somewhere/vit-{digest[:8]}.pt"}
    )
    assert origin.tags_of(str(file)) == [("ViT-B-32", "laion400m_e32")]


def cached_configuration(cache: Path, repository: str, tree: dict[str, object]) -> None:
    """A configuration as the hub's cache keeps it, without its weights."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "snapshots" / "1").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("1")
    (folder / "snapshots" / "1" / "open_clip_config.json").write_text(json.dumps(tree))


@pytest.mark.parametrize(
    ("preprocessing", "quick", "wrong"),
    [
        ({"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic", "resize_mode": "squash"}, 0, ""),
        ({"mean": [0.4, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "resize_mode": "squash"}, 0, r"mean = \(0.5, 0.5, 0.5\)"),
        ({"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}, 0, "resize = squash.*shortest"),
        ({"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "resize_mode": "squash"}, 1, "with GELU.*QuickGELU"),
    ],
)
def test_a_repository_whose_configuration_was_altered_is_refused_before_its_weights_are_sought(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preprocessing: dict[str, object], quick: int, wrong: str
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    model = {**open_clip.get_model_config("ViT-B-16-SigLIP"), "quick_gelu": bool(quick)}
    cached_configuration(tmp_path, SIGLIP, {"model_cfg": model, "preprocess_cfg": preprocessing})
    config = OpenClip(f"hf-hub:{SIGLIP}")
    assert config.origin() == [("ViT-B-16-SigLIP", "webli")]
    if not wrong:
        config.check_origin()
        return
    with pytest.raises(UserError, match=f"{wrong}.*name them as ViT-B-16-SigLIP:webli"):
        config.build(0)


def test_every_tag_is_told_by_the_name_that_fits_it() -> None:
    """Of each tag that open_clip lists, either the name itself is right or the one that the sentence gives."""
    for architecture, tag in open_clip.list_pretrained():
        try:
            OpenClip(architecture, tag).check_origin()
        except UserError as error:
            right = str(error).rpartition("name them as ")[2].split(":")
            assert right[1] == tag
            OpenClip(*right).check_origin()


def test_what_differs_is_named() -> None:
    ours = ImageTransform(224)
    assert origin.other_pictures(ours, ImageTransform(224, fill=9)) == ""  # nothing is filled
    assert "size = 256" in origin.other_pictures(ours, ImageTransform(256))
    assert "interpolation = bilinear" in origin.other_pictures(ours, ImageTransform(224, interpolation="bilinear"))
    assert origin.other_activation(True, {"quick_gelu": True}) == origin.other_activation(False, {}) == ""
