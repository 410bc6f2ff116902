"""`vlp eval MODEL winoground | aro | sugarcrepe` on small sets in their layouts, against counts by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.sample import Sample
from eval.run import main
from vlp.models.release import Release
from vlp.pictures import Limits, decode


def scores(release: Release, pictures: list[bytes], texts: list[str]) -> np.ndarray:
    image = np.asarray(release.embed_images([decode(picture, Limits()) for picture in pictures]))
    return image @ np.asarray(release.embed_texts(texts)).T


def metrics(model: Path, preset: str, root: Path, *flags: str) -> dict:
    out = root.parent / f"{preset}_report"
    assert main([str(model), preset, "--root", str(root), "--out", str(out), "--no-cache", *flags]) == 0
    return json.loads((out / "report.json").read_text())


def test_winoground(model_folder: Path, release: Release, samples: list[Sample], tmp_path: Path) -> None:
    root, rows, right = tmp_path / "w", [], []
    (root / "images").mkdir(parents=True)
    for number in range(5):
        a, b = samples[2 * number], samples[2 * number + 1]
        for place, sample in enumerate((a, b)):
            (root / "images" / f"{number}_{place}.png").write_bytes(sample.image)
        captions = [a.captions["en"], b.captions["en"]]
        names = {f"image_{i}": f"{number}_{i}" for i in (0, 1)} | {f"caption_{i}": captions[i] for i in (0, 1)}
        rows.append(json.dumps({"id": number, **names, "tag": "Object"}))
        s = scores(release, [a.image, b.image], captions)
        text, image = s[0, 0] > s[0, 1] and s[1, 1] > s[1, 0], s[0, 0] > s[1, 0] and s[1, 1] > s[0, 1]
        right.append([text, image, text and image])
    (root / "examples.jsonl").write_text("\n".join(rows))
    found = metrics(model_folder, "winoground", root, "--datasets.winoground.count", "10")["metrics"]
    expected = np.mean(right, axis=0)
    for name, value in zip(("text", "image", "group"), expected, strict=True):
        assert found[f"winoground/en/winoground/{name}_score"] == pytest.approx(value, abs=1e-6)


def test_sugarcrepe(
    model_folder: Path, release: Release, samples: list[Sample], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, tree, right = tmp_path / "s", {}, []
    (root / "val2017").mkdir(parents=True)
    for number, sample in enumerate(samples[:8]):
        (root / "val2017" / f"{number}.jpg").write_bytes(sample.image)
        true, false = sample.captions["en"], samples[number + 3].captions["en"]
        tree[str(number)] = {"filename": f"{number}.jpg", "caption": true, "negative_caption": false}
        s = scores(release, [sample.image], [true, false])[0]
        right.append(s[0] > s[1])
    (root / "swap_obj.json").write_text(json.dumps(tree))
    report = metrics(model_folder, "sugarcrepe", root)
    assert report["metrics"]["swap_obj/en/caption_choice/accuracy"] == pytest.approx(np.mean(right), abs=1e-6)
    assert report["collection"]["values"] == {"swap_obj": pytest.approx(np.mean(right))}
    assert "no average of SugarCrepe: 1 of 7 datasets were measured" in " ".join(capsys.readouterr().out.split())


def test_aro(model_folder: Path, release: Release, samples: list[Sample], tmp_path: Path) -> None:
    root, rows, right = tmp_path / "a", [], []
    (root / "images").mkdir(parents=True)
    for number, sample in enumerate(samples[:6]):
        (root / "images" / f"{number}.jpg").write_bytes(sample.image)
        true, false = sample.captions["en"], samples[number + 3].captions["en"]
        box = {"bbox_x": 2, "bbox_y": 1, "bbox_w": 40, "bbox_h": 30}
        about = {"image_path": f"{number}.jpg", "true_caption": true, "false_caption": false}
        rows.append({**about, **box, "relation_name": "on" if number < 4 else "under"})
        cut = np.asarray(release.embed_images([decode(sample.image, Limits()).crop((2, 1, 42, 31))]))
        s = (cut @ np.asarray(release.embed_texts([true, false])).T)[0]
        right.append(s[0] > s[1])
    (root / "visual_genome_relation.json").write_text(json.dumps(rows))
    report = metrics(model_folder, "aro", root, "--datasets.vg_relation.count", "6")
    choice = {k.removeprefix("vg_relation/en/caption_choice/"): v for k, v in report["metrics"].items()}
    assert choice["accuracy"] == pytest.approx(np.mean(right), abs=1e-6)
    by_relation = np.mean([np.mean(right[:4]), np.mean(right[4:])])
    assert choice["per_category"] == pytest.approx(by_relation, abs=1e-6)
    assert report["collection"]["values"] == {"vg_relation": pytest.approx(by_relation)}
