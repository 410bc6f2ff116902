"""What an earlier version wrote still opens and gives what it gave then; an old checkpoint is refused in a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import vlp
from data_pipelines.commands.verify import Verify, problems
from data_pipelines.shards.read_samples import read_samples
from data_pipelines.shards.shard_set import ShardSet
from eval.embeddings.store import EmbeddingStore
from eval.search.gallery import Gallery
from vlp.errors import UserError
from vlp.pictures import Limits, decode
from vlp.training.checkpoints.folder import Checkpoints, Keep
from vlp.training.checkpoints.place import Folder

BEFORE = Path(__file__).parent / "written_before"
THEN = torch.load(BEFORE / "vectors.pt", weights_only=True)


def test_shards_and_their_manifest() -> None:
    shards = ShardSet.open(str(BEFORE / "shards"))
    assert shards.counts == (5, 3)
    assert list(problems(Verify(str(BEFORE / "shards")))) == []
    first = next(iter(read_samples(shards)))
    assert first.captions == {"en": "red circle", "zh": "红圆"}


def test_a_model_folder_gives_the_same_vectors() -> None:
    model = vlp.load(BEFORE / "model")
    pictures = [decode(s.image, Limits()) for s in read_samples(ShardSet.open(str(BEFORE / "shards")))]
    assert torch.allclose(model.embed_texts(["red circle", "红圆"]), THEN["texts"], atol=1e-6)
    assert torch.allclose(model.embed_images(pictures), THEN["images"], atol=1e-6)


def test_embeddings() -> None:
    store = EmbeddingStore.open(BEFORE / "store")
    images = np.concatenate([store.images(part) for part in store.parts])
    assert np.allclose(images, THEN["images"].numpy(), atol=1e-6)
    assert store.model == vlp.load(BEFORE / "model").id


def test_an_index_gives_the_same_hits() -> None:
    gallery = Gallery.open(BEFORE / "index")
    model = vlp.load(gallery.model)
    hits = gallery.search(model, model.embed_texts(["red circle"]).numpy(), 3)[0]
    expected = json.loads((BEFORE / "hits.json").read_text())
    assert [hit.key for hit in hits] == [key for key, _ in expected]
    assert [hit.score for hit in hits] == pytest.approx([score for _, score in expected], abs=1e-5)


def test_a_checkpoint_of_the_first_format_is_refused_in_one_sentence(tmp_path: Path) -> None:
    torch.save({"format": "vlp-checkpoint-1", "identity": {}, "model": {}}, tmp_path / "step-00000001.pt")
    with pytest.raises(
        UserError, match="this version reads 'vlp-checkpoint-3' and 'vlp-checkpoint-2'; finish the run with the version"
    ) as e:
        Checkpoints(Folder(tmp_path), Keep()).read({}, lambda table: {})
    assert "\n" not in str(e.value)
