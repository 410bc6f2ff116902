"""Without the hub: one sentence within five seconds, whichever of the three libraries asks."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import open_clip  # noqa: F401  (imported before the clock runs)
import pytest
import timm  # noqa: F401
import transformers  # noqa: F401
from huggingface_hub import constants

from vlp.errors import UserError
from vlp.models import hub, release
from vlp.models.image.timm import Timm
from vlp.models.kinds.open_clip import OpenClip
from vlp.models.kinds.two_towers import TwoTowers
from vlp.models.text.huggingface import HuggingFace


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a server that takes a connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def away(silent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A hub that does not answer, and an empty cache."""
    monkeypatch.setattr(constants, "ENDPOINT", silent)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("urllib.request.getproxies", dict)
    return silent


MODELS: dict[str, tuple[Callable[[], object], str]] = {
    "a tag": (lambda: release.load("ViT-B-32-quickgelu:openai"), "timm/vit_base_patch32_clip_224.openai"),
    "another": (lambda: release.load("ViT-B-32:laion2b_s34b_b79k"), "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"),
    "hf-hub": (lambda: release.load("hf-hub:timm/ViT-B-16-SigLIP"), "timm/ViT-B-16-SigLIP"),
    "a tokenizer": (lambda: OpenClip("ViT-B-16-SigLIP").tokenizer(()), "timm/ViT-B-16-SigLIP"),
    "a text encoder": (lambda: OpenClip("roberta-ViT-B-32").build(9), "roberta-base"),
    "a text tower's tokenizer": (lambda: HuggingFace("no-one/has-it").tokenizer(), "no-one/has-it"),
    "a text tower": (lambda: HuggingFace("no-one/has-it", pretrained=True).build(8, 50, 8), "no-one/has-it"),
    "an image tower": (lambda: Timm("resnet10t", pretrained=True).build(8, 32), "timm/resnet10t.c3_in1k"),
}


@pytest.mark.parametrize("model", MODELS)
def test_without_the_hub_it_is_one_sentence_within_five_seconds(away: str, tmp_path: Path, model: str) -> None:
    load, repository = MODELS[model]
    hub._reached.cache_clear()
    began = time.perf_counter()
    with pytest.raises(UserError) as caught:
        load()
    assert time.perf_counter() - began < 5
    sentence = str(caught.value)
    assert f"{away} cannot be reached, and {tmp_path}/cache/models--{repository.replace('/', '--')}" in sentence
    assert f"`hf download {repository}`" in sentence
    assert "\n" not in sentence
    assert not constants.HF_HUB_OFFLINE


def test_who_is_offline_by_choice_is_not_asked(away: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        HuggingFace("no-one/has-it").tokenizer()


def test_what_answers_is_reached_whatever_it_says(silent: str) -> None:
    class No(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(403)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), No) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        assert hub.reached(f"http://127.0.0.1:{server.server_port}", 5)
    assert not hub.reached(silent, 0.2)
    assert not hub.reached("http://127.0.0.1:1", 5)
    assert not hub.reached("no address", 5)


def test_a_model_folder_names_no_weights_to_fetch() -> None:
    saved = TwoTowers(image=Timm("resnet10t", pretrained=True)).resolved()
    assert saved.image == Timm("resnet10t")
