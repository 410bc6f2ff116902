"""open_clip's checkpoints and folders, in and out: the same embeddings, and what does not fit is named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image

from eval.exchange import Export, Import, run_export, run_import
from tests.vlp.models.exchange.tiny_models import (
    MEAN,
    TINY,
    changed,
    know_tiny_architectures,
    write_checkpoint,
    write_folder,
)
from vlp.errors import UserError
from vlp.models import release
from vlp.models.kinds.open_clip import OpenClip


def test_a_folder_comes_in_and_goes_out_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(tmp_path / "theirs")
    run_import(Import(folder, tmp_path / "ours"))
    assert "largest difference of an embedding: pictures " in capsys.readouterr().out
    run_export(Export(str(tmp_path / "ours"), tmp_path / "again", "open_clip"))
    first, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    second, _, prepare_again = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'again'}")
    assert first.state_dict().keys() == second.state_dict().keys()
    assert all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())
    picture = Image.effect_noise((70, 50), 60).convert("RGB")
    assert torch.equal(prepare(picture), prepare_again(picture))  # mean, std and resizing too
    assert release.load(tmp_path / "ours").transform.mean == tuple(MEAN)


def test_a_training_checkpoint_comes_in_with_what_its_run_changed(tmp_path: Path) -> None:
    name = know_tiny_architectures(tmp_path / "configs")
    said = f"model: {name}\nforce_quick_gelu: True\nimage_mean: (0.1, 0.2, 0.3)\nimage_resize_mode: None\nlr: 0.001\n"
    checkpoint = write_checkpoint(tmp_path / "logs" / "checkpoints", said)
    run_import(Import(checkpoint, tmp_path / "ours"))
    ours = release.load(tmp_path / "ours")
    assert ours.transform.mean == (0.1, 0.2, 0.3)
    theirs = open_clip.create_model(name, str(checkpoint), force_quick_gelu=True).eval()
    with torch.inference_mode():
        text = theirs.encode_text(open_clip.tokenize(["a red apple"], 24), normalize=True)
    torch.testing.assert_close(ours.embed_texts("a red apple"), text)


def test_what_a_checkpoint_does_not_say_is_asked_for(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "logs" / "checkpoints")
    with pytest.raises(UserError, match=r"nothing says the architecture of .* name it by --architecture"):
        run_import(Import(checkpoint, tmp_path / "ours"))
    run_import(Import(checkpoint, tmp_path / "ours", architecture=know_tiny_architectures(tmp_path / "configs")))


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ("tiny-test-quickgelu", "has QuickGELU False, and .* has True"),
        ("tiny-test-30", "has a context length of 24, and .* has 30"),
        ("tiny-tset", 'did you mean "tiny-test"'),
    ],
)
def test_an_architecture_that_is_not_the_trained_one_is_named(tmp_path: Path, asked: str, sentence: str) -> None:
    name = know_tiny_architectures(tmp_path / "configs")
    checkpoint = write_checkpoint(tmp_path / "logs" / "checkpoints", f"model: {name}\n")
    with pytest.raises(UserError, match=sentence):
        run_import(Import(checkpoint, tmp_path / "ours", architecture=asked))
    folder = write_folder(tmp_path / "theirs")
    with pytest.raises(UserError, match=sentence):
        run_import(Import(folder, tmp_path / "ours", architecture=asked))
    assert not any("ours" in path.name for path in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"text_cfg__context_length": 30}, "another context length than .* is \\(24, 32\\), and \\(30, 32\\)"),
        ({"text_cfg__vocab_size": 50000}, "another vocabulary than"),
        ({"vision_cfg__image_size": 64}, "another number of patches than"),
        ({"vision_cfg__layers": 3}, "it lacks .*resblocks.2"),
    ],
)
def test_weights_of_another_architecture_say_in_what(tmp_path: Path, changes: dict[str, int], sentence: str) -> None:
    folder = write_folder(tmp_path / "theirs")
    tree = json.loads((folder / "open_clip_config.json").read_text())
    (folder / "open_clip_config.json").write_text(json.dumps({**tree, "model_cfg": changed(TINY, **changes)}))
    with pytest.raises(UserError, match=sentence):
        run_import(Import(folder, tmp_path / "ours"))
    assert not any("ours" in path.name for path in tmp_path.iterdir())


def test_a_tokenizer_that_knows_more_tokens_than_the_weights_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "theirs", changed(TINY, text_cfg__vocab_size=1000))
    with pytest.raises(UserError, match=r"the tokenizer has 49408 tokens, but the weights .* have rows for 1000"):
        run_import(Import(folder, tmp_path / "ours"))


class Attack:
    def __reduce__(self) -> object:
        return os.system, ("touch attacked",)


def test_a_checkpoint_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = know_tiny_architectures(tmp_path / "configs")
    checkpoint = write_checkpoint(tmp_path / "logs" / "checkpoints", optimizer=Attack())
    with pytest.raises(UserError, match="holds no weights that can be read safely"):
        run_import(Import(checkpoint, tmp_path / "ours", architecture=name))
    assert not (tmp_path / "attacked").exists()


def test_a_parity_that_is_off_writes_nothing(tmp_path: Path) -> None:
    """The other program's arithmetic is never the same to the last bit: a tolerance of 0 is off."""
    folder = write_folder(tmp_path / "theirs", changed(TINY, vision_cfg__image_size=32))
    run_import(Import(folder, tmp_path / "ours"))
    with pytest.raises(UserError, match=r"the parity is off: embeddings of \w+ differ .* nothing was written"):
        run_export(Export(str(tmp_path / "ours"), tmp_path / "out", "open_clip", tolerance=0.0))
    assert not any("out" in path.name for path in tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    with pytest.raises(UserError, match="is there already"):
        run_export(Export(str(tmp_path / "ours"), tmp_path / "out", "open_clip"))


def test_weights_trained_with_quickgelu_are_not_run_with_gelu() -> None:
    with pytest.raises(UserError, match=r"trained with QuickGELU.*name them as ViT-B-32-quickgelu:openai"):
        OpenClip("ViT-B-32", "openai").build(49408)
