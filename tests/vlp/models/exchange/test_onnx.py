"""ONNX: both towers give in onnxruntime what they give here, for any number of rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from eval.exchange import Export, Import, export_main, run_export, run_import
from tests.vlp.models.exchange.tiny_models import write_siglip
from vlp.models import release
from vlp.models.kinds.two_towers import TwoTowers
from vlp.models.text.transformer import Transformer

SMALL = TwoTowers(width=16, image_size=32, text=Transformer(hidden=32, layers=1, heads=2))


def write_ours(folder: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = SMALL.tokenizer(["grinning face", "red apple", "红苹果"] * 3)
    encoder = SMALL.build(tokenizer.vocab).eval()
    release.save(folder, config=SMALL, encoder=encoder, tokenizer=tokenizer, notes={})
    return folder


@pytest.mark.slow
def test_any_number_of_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_ours(tmp_path / "ours")
    export_main([str(folder), str(tmp_path / "out"), "--to", "onnx"])
    assert "largest difference of an embedding" in capsys.readouterr().out
    model, about = release.load(folder), json.loads((tmp_path / "out" / "onnx.json").read_text())
    assert about["model_id"] == model.id
    pixels = torch.randint(0, 256, (7, 3, 32, 32), dtype=torch.uint8)
    for side in ("image", "text"):
        onnx.checker.check_model(str(tmp_path / "out" / f"{side}.onnx"))
    session = onnxruntime.InferenceSession(tmp_path / "out" / "image.onnx")
    for rows in (1, 7):
        (out,) = session.run(None, {"image": pixels[:rows].numpy()})
        np.testing.assert_allclose(out, model.embed_pixels(pixels[:rows]).numpy(), atol=1e-5)


@pytest.mark.slow
def test_a_siglip_model_goes_out_too(tmp_path: Path) -> None:
    run_import(Import(write_siglip(tmp_path / "theirs"), tmp_path / "ours"))
    run_export(Export(str(tmp_path / "ours"), tmp_path / "out", "onnx"))
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"image.onnx", "text.onnx", "tokenizer.json", "onnx.json"}
