"""Model folders: what is saved is what is loaded, and a folder that was touched is refused."""

from __future__ import annotations

import doctest
import json
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import tomli_w
import torch
from PIL import Image

import train
import vlp
from vlp.config import to_tree
from vlp.errors import UserError
from vlp.files import sha256
from vlp.losses.barlip import BarLIP
from vlp.losses.cyclip import CyCLIP
from vlp.models import release
from vlp.models.image_transform import ImageTransform
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


def test_texts_come_back_in_their_order_whatever_their_lengths(folder: Path) -> None:
    model = release.load(folder)
    texts = [f"{'very ' * (i * 7 % 11)}red apple {i}" for i in range(50)]
    alone = torch.cat([model.encoder.encode_text(model.tokenizer([text])) for text in texts])
    torch.testing.assert_close(model.embed_texts(texts, batch=8), alone)
    clip = release.load("ViT-S-32-alt", random_weights=True)
    with torch.inference_mode():
        whole = clip.encoder.encode_text(clip.tokenizer(texts[:6]))
    torch.testing.assert_close(clip.embed_texts(texts[:6], batch=4), whole)


def test_bf16_is_asked_for_and_near(folder: Path) -> None:
    model = release.load(folder)
    fast = replace(model, precision="bf16")
    pictures = [Image.new("RGB", (70, 90), colour) for colour in ("red", "blue")]
    for exact, rounded in (
        (model.embed_texts(CAPTIONS), fast.embed_texts(CAPTIONS)),
        (model.embed_images(pictures), fast.embed_images(pictures)),
    ):
        assert rounded.dtype == torch.float32
        assert not torch.equal(exact, rounded)
        assert (exact * rounded).sum(dim=1).min() > 0.999
        torch.testing.assert_close(rounded.norm(dim=1), torch.ones(len(rounded)))


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


def test_the_preprocessing_in_the_folder_has_the_last_word(folder: Path) -> None:
    """A later open_clip, or another default here, does not change what a saved model sees."""
    toml = folder / "model.toml"
    tree = tomllib.loads(toml.read_text())
    assert tree["preprocessing"] == to_tree(SMALL.transform())
    tree["preprocessing"] |= {"resize": "squash", "interpolation": "bilinear", "mean": [0.1, 0.2, 0.3]}
    toml.write_text(tomli_w.dumps(tree))
    model = release.load(folder)
    assert model.transform == replace(
        SMALL.transform(), resize="squash", interpolation="bilinear", mean=(0.1, 0.2, 0.3)
    )
    assert model.encoder.mean.flatten().tolist() == pytest.approx([25.5, 51, 76.5])


def test_a_folder_does_not_need_the_weights_that_training_began_with(tmp_path: Path) -> None:
    config = OpenClip("ViT-S-32-alt", pretrained=str(tmp_path / "gone.pt"))
    encoder = replace(config, pretrained="").build(0)
    release.save(tmp_path / "m", config=config, encoder=encoder, tokenizer=config.tokenizer(()), notes={})
    loaded = release.load(tmp_path / "m")
    assert loaded.transform == config.transform()
    for key, value in encoder.state_dict().items():
        assert torch.equal(loaded.encoder.state_dict()[key], value), key
    with pytest.raises(UserError, match="there is no such checkpoint file"):
        config.build(0)


def test_folders_written_before_there_was_preprocessing_in_them_still_open(folder: Path) -> None:
    toml = folder / "model.toml"
    tree = tomllib.loads(toml.read_text())
    del tree["preprocessing"]
    for key in ("resize", "interpolation", "fill"):
        del tree["model"][key]
    toml.write_text(tomli_w.dumps(tree))
    model = release.load(folder)
    assert model.transform == ImageTransform(64, "shortest", "bicubic", 0, SMALL.mean, SMALL.std)
    assert torch.equal(model.encoder.mean, SMALL.build(model.tokenizer.vocab).mean)


def test_pictures_may_be_pils_bytes_or_paths_one_or_many(folder: Path, tmp_path: Path) -> None:
    model = release.load(folder)
    path = tmp_path / "red.png"
    picture = Image.new("RGBA", (30, 40), (255, 0, 0, 120))
    picture.save(path)
    want = model.embed_images([picture])
    for one in (picture, path, str(path), path.read_bytes()):
        assert torch.equal(model.embed_images(one), want)
    torch.testing.assert_close(model.embed_images([picture, path, path.read_bytes()], batch=2), want.expand(3, -1))
    assert torch.equal(model.embed_texts("a red apple"), model.embed_texts(["a red apple"]))
    assert model.embed_texts([]).shape == model.embed_images([]).shape == (0, 16)
    with pytest.raises(UserError, match=r"gone.png cannot be read: No such file"):
        model.embed_images([tmp_path / "gone.png"])
    with pytest.raises(UserError, match="the picture cannot be embedded: undecodable picture"):
        model.embed_images(b"no picture")


def test_random_weights_are_refused_unless_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UserError, match=r"RN50:TAG \(openai, yfcc15m, cc12m\).*--random-weights"):
        vlp.load("RN50")
    one, two = (vlp.load("ViT-S-32-alt", random_weights=True) for _ in range(2))
    assert one.id == two.id  # the same ones each time: an index that they made can be searched
    assert "ViT-S-32-alt has random weights" in caplog.text
    with pytest.raises(UserError, match=r'no weights "opennai" of "RN50".*did you mean "openai"'):
        vlp.load("RN50:opennai", random_weights=True)


def test_vlp_is_imported_without_its_dependencies() -> None:
    code = "import sys, vlp; print(*{name.split('.')[0] for name in sys.modules} & set(sys.argv[1:]))"
    heavy = ("torch", "open_clip", "timm", "transformers", "numpy", "PIL", "faiss", "tyro", "pandas")
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_readme_runs(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines under "From Python", with this model where the README has one."""
    monkeypatch.chdir(tmp_path)
    folder.rename(tmp_path / "trained")
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "trained").rename(tmp_path / "runs" / "mine" / "model")
    Image.new("RGB", (90, 70), "red").save("apple.jpg")
    readme = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    test = doctest.DocTestParser().get_doctest(readme, {}, "README.md", "README.md", 0)
    assert len(test.examples) >= 3
    values = test.globs
    failed, _ = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, clear_globs=False)
    assert failed == 0
    assert values["similarity"].shape == (2, 1)


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
    assert open_clip.get_model_preprocess_cfg(theirs)["size"] in (
        config.transform().size,
        (config.transform().size,) * 2,
    )
    pixels = torch.rand(2, 3, config.transform().size, config.transform().size)
    text = torch.randint(1, 300, (2, open_clip.get_model_config(architecture)["text_cfg"]["context_length"]))
    with torch.inference_mode():
        torch.testing.assert_close(ours.encode_image(pixels), theirs.encode_image(pixels, normalize=True))
        torch.testing.assert_close(ours.encode_text(text), theirs.encode_text(text, normalize=True))


def test_a_folder_from_elsewhere_runs_no_code_of_its_own(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To load "this.that" would be to run it: only components of vlp are, unless the folder is trusted."""
    theirs = tmp_path / "theirs"
    shutil.copytree(folder, theirs)
    text = (theirs / "model.toml").read_text().replace('name = "transformer"', 'name = "their_tower.small"')
    assert "their_tower" in text
    (theirs / "model.toml").write_text(text)
    (tmp_path / "their_tower").mkdir()
    code = "from dataclasses import dataclass\nfrom pathlib import Path\n"
    code += "from vlp.models.text.transformer import Transformer\n"
    code += "Path('ran').touch()\n@dataclass(frozen=True)\nclass Theirs(Transformer):\n    pass\n"
    (tmp_path / "their_tower" / "small.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r'"their_tower.small" is code from outside of vlp.*--trust'):
        release.load(theirs)
    assert not (tmp_path / "ran").exists()
    assert release.load(theirs, trust=True).embed_texts(["a"]).shape[0] == 1


def forge(folder: Path, **tables: object) -> None:
    """Write these tables of model.toml, with checksums that agree."""
    tree = tomllib.loads((folder / "model.toml").read_text())
    sums = {name: sha256(folder / name) for name in ("model.safetensors", "tokenizer.json")}
    (folder / "model.toml").write_text(tomli_w.dumps({**tree, "sha256": sums, **tables}))


@pytest.mark.parametrize(
    "tables",
    [
        {"sha256": {}},
        {"sha256": 3},
        {"sha256": {"model.safetensors": 1}},
        {"tokenizer": {"vocab": "many", "context": 8}},
        {"tokenizer": {"vocab": 10**18, "context": 8}},
        {"tokenizer": {"vocab": -1, "context": 8}},
        {"model": {}},
        {"model": {"name": "two_towers", "width": 10**12}},
        {"model": {"name": "two_towers", "image": {"name": "\x1b[2J"}}},
        {"format": ["vlp-model-1"]},
    ],
)
def test_a_forged_model_toml_is_one_sentence(folder: Path, tables: dict[str, object]) -> None:
    forge(folder, **tables)
    with pytest.raises(UserError):
        release.load(folder)


@pytest.mark.parametrize("weights", [b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0{}"])
def test_weights_that_are_none_are_one_sentence(folder: Path, weights: bytes) -> None:
    (folder / "model.safetensors").write_bytes(weights)
    forge(folder)
    with pytest.raises(UserError, match="does not hold the weights"):
        release.load(folder)


@pytest.mark.parametrize("text", ["", "[" * 100_000, "3", "{}", '{"shift": 1}', '{"open_clip": "x", "files": 3}'])
def test_a_tokenizer_that_is_none_is_one_sentence(folder: Path, text: str) -> None:
    (folder / "tokenizer.json").write_text(text)
    forge(folder)
    with pytest.raises(UserError, match="tokenizer"):
        release.load(folder)


def test_a_tokenizer_writes_nothing_outside_its_folder(folder: Path, tmp_path: Path) -> None:
    files = {"open_clip_config.json": "{}", str(tmp_path / "evil.json"): "x", "../evil.json": "x"}
    (folder / "tokenizer.json").write_text(json.dumps({"open_clip": "ViT-B-32", "files": files}))
    forge(folder)
    with pytest.raises(UserError, match="no name inside a folder"):
        release.load(folder)
    assert not (tmp_path / "evil.json").exists()


def test_a_folder_has_no_weights_of_the_objective(tmp_path: Path) -> None:
    tokenizer = SMALL.tokenizer(CAPTIONS)
    kept = []
    for _ in range(2):
        torch.manual_seed(3)
        encoder = SMALL.build(tokenizer.vocab)
        train.learn(CyCLIP(base=BarLIP(dims=3)), encoder, tokenizer)
        assert encoder.training
        kept.append({name: weight.detach().clone() for name, weight in encoder.learnt.named_parameters()})
    assert {name: tuple(weight.shape) for name, weight in kept[0].items()} == {
        "barlip_image": (16, 3),
        "barlip_text": (16, 3),
    }
    assert all(torch.equal(weight, kept[1][name]) for name, weight in kept[0].items())  # what the seed says
    release.save(tmp_path / "model", config=SMALL, encoder=encoder.eval(), tokenizer=tokenizer, notes={})
    model = release.load(tmp_path / "model")
    assert not list(model.encoder.learnt.parameters())
    torch.testing.assert_close(model.embed_texts(CAPTIONS), encoder.encode_text(tokenizer(CAPTIONS)))
    train.learn(CyCLIP(), model.encoder, tokenizer)
    assert not list(model.encoder.learnt.parameters())
