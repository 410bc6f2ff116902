"""Captions anywhere in the .json: the same path trains, is evaluated, and is named in the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import train
from data_pipelines.sample import Sample
from eval.embeddings.split import EmbeddedSplit
from eval.run import main
from eval.tasks.retrieval import Retrieval
from vlp.models import release as releases
from vlp.models.release import Release

PRESET = """
[model]
name = "two_towers"
width = 16
image_size = 32
image = { name = "timm", architecture = "resnet10t" }
text = { name = "transformer", hidden = 32, layers = 1, heads = 2 }

[training]
samples = 48
batch = 12
precision = "fp32"
tensorboard = false
eval_every = 2

[eval.tasks.long]
name = "retrieval"
languages = ["notes.long"]
"""


@pytest.fixture(scope="module")
def shards(samples: list[Sample], write: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures whose texts are two levels down, as a list, or nowhere; none has a caption."""
    noted = [
        replace(
            sample,
            captions={},
            metadata={
                "notes": {"long": f"one very {sample.captions['en']}", "several": [sample.captions["en"], "a shape"]},
                "tags": {"en": sample.captions["en"].split()},
            },
        )
        for sample in samples
    ]
    return write(tmp_path_factory.mktemp("noted") / "noted", noted)


@pytest.mark.parametrize("path", ["notes.long", "notes.several", "tags.en"])
def test_recall_over_a_path_equals_a_count_by_hand(release: Release, shards: Path, path: str) -> None:
    split = EmbeddedSplit(release, str(shards))
    result = Retrieval(languages=(path,), ks=(2,)).measure(split)
    own = [sample.said(path) for sample in split.samples]
    texts = list(dict.fromkeys(text for some in own for text in some))
    scores = split.image @ np.asarray(release.embed_texts(texts)).T
    to_text = [any(texts[t] in own[i] for t in np.argsort(-scores[i])[:2]) for i in range(len(own))]
    to_image = [any(text in own[i] for i in np.argsort(-scores[:, t])[:2]) for t, text in enumerate(texts)]
    assert result[f"{path}/image_to_text/recall@2"].value == pytest.approx(np.mean(to_text))
    assert result[f"{path}/text_to_image/recall@2"].value == pytest.approx(np.mean(to_image))


def test_only_a_txt(release: Release, samples: list[Sample], write: Callable[..., Path], tmp_path: Path) -> None:
    """Sample.members writes the first caption as .txt; without a .json that is all there is."""

    class Bare(Sample):
        def members(self) -> tuple[tuple[str, bytes], ...]:
            return super().members()[:2]

    bare = [Bare(s.key, s.image, s.image_format, s.captions) for s in samples]
    split = EmbeddedSplit(release, str(write(tmp_path / "bare", bare)))
    assert split.languages == ("en",)
    by_name = Retrieval(languages=("en", "txt")).measure(split)
    assert by_name["txt/image_to_text/recall@5"] == replace(
        by_name["en/image_to_text/recall@5"], presentation=by_name["txt/image_to_text/recall@5"].presentation
    )


def test_a_path_trains_and_is_evaluated(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "noted.toml").write_text(PRESET)
    data = ["--data.shards", str(shards), "--eval.tasks.long.data", str(shards), "--out", str(tmp_path / "run")]
    captions = '[data]\ncaptions.weights = { "notes.long" = 1.0 }\n'
    (tmp_path / "captions.toml").write_text(captions)
    assert train.main([str(tmp_path / "noted.toml"), str(tmp_path / "captions.toml"), *data]) == 0
    tokenizer = releases.load(tmp_path / "run" / "model").tokenizer
    words = tokenizer(["one very red circle", "one very zzqx circle"])
    assert (words[0] != 0).sum() < (words[1] != 0).sum()  # the tokenizer has learnt from the same texts
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("noted/notes.long/text_to_image/recall@1" in row for row in rows)
    asked = [str(tmp_path / "run" / "model"), str(shards), "--languages", "notes.long", "--out", str(tmp_path / "e")]
    assert main(asked) == 0
    tree = json.loads((tmp_path / "e" / "report.json").read_text())
    assert tree["labels"]["noted/notes.long/image_to_text/recall@1"] == ["notes.long", "picture → caption"]
