"""ONNX: the two towers as image.onnx and text.onnx, any number of rows, checked in onnxruntime."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlp.config import to_tree
from vlp.errors import UserError
from vlp.models import Model
from vlp.models.dual_encoder import DualEncoder
from vlp.models.exchange import Exchange, Foreign
from vlp.models.image_transform import ImageTransform
from vlp.models.release import Release
from vlp.models.tokenizer import FastTokenizer, Tokenizer, load_tokenizer

FORMAT = "vlp-onnx-1"
OPSET = 18


@dataclass(frozen=True)
class OnnxExchange(Exchange):
    """Folders with image.onnx, text.onnx, tokenizer.json and onnx.json."""

    def write(self, release: Release, config: Model, folder: Path) -> None:
        """Both towers. The image tower takes uint8 pixels, the text tower ids of the whole context, padded with 0."""
        needs_onnx()
        size, context = release.transform.size, release.tokenizer.context
        example = torch.zeros(2, 3, size, size, dtype=torch.uint8)
        ids = padded(release.tokenizer, ["a", "a picture of it"])
        encoder = release.encoder.cpu().eval()
        with _plain_attention():
            _export(_Images(encoder), example, folder / "image.onnx", "image")
            _export(_Texts(encoder), ids, folder / "text.onnx", "text")
        release.tokenizer.save(folder / "tokenizer.json")
        tree = {
            "format": FORMAT,
            "model_id": release.id,
            "image": {"name": "image", "type": "uint8", "shape": ["B", 3, size, size]},
            "text": {"name": "text", "type": "int64", "shape": ["B", context], "padding": 0},
            "output": {"name": "unit_vector", "width": release.embed_texts("").shape[1]},
            "scale": float(encoder.logit_scale.detach().exp()),
            "bias": float(encoder.logit_bias.detach()),
            "context": context,
            "preprocessing": to_tree(release.transform),
        }
        (folder / "onnx.json").write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")

    def foreign(self, source: Path, architecture: str) -> Foreign:
        """The towers in onnxruntime, with the tokenizer and the preparation that lie beside them."""
        import onnxruntime

        tree = json.loads((source / "onnx.json").read_text(encoding="utf-8"))
        transform = ImageTransform(**tree["preprocessing"])
        tokenizer = load_tokenizer(source / "tokenizer.json", tree["context"])
        shift = tokenizer.shift if isinstance(tokenizer, FastTokenizer) else 0
        image, text = (
            onnxruntime.InferenceSession(source / f"{side}.onnx", providers=["CPUExecutionProvider"])
            for side in ("image", "text")
        )

        def pixels(some: Tensor) -> Tensor:
            rows = [some[:1], some[1:]] if len(some) > 1 else [some]  # two sizes of batch: the axis is free
            return torch.cat([torch.from_numpy(image.run(None, {"image": part.numpy()})[0]) for part in rows])

        def texts(captions: Sequence[str]) -> Tensor:
            return torch.from_numpy(text.run(None, {"text": padded(tokenizer, captions).numpy()})[0])

        return Foreign(
            pixels=pixels,
            pictures=lambda some: pixels(torch.stack([transform(picture) for picture in some])),
            tokens=lambda captions: (tokenizer(captions) - shift).tolist(),
            texts=texts,
        )


def needs_onnx() -> None:
    """Raise UserError if what writes and runs ONNX is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"{error.name} is not installed, which writes or checks ONNX; pip install 'vlp[onnx]'"
        ) from None


def padded(tokenizer: Tokenizer, captions: Sequence[str]) -> Tensor:
    """Token ids [B, context], int64, 0 = padding."""
    ids = tokenizer(captions)
    return nn.functional.pad(ids, (0, tokenizer.context - ids.shape[1]))


class _Images(nn.Module):
    def __init__(self, encoder: DualEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: Tensor) -> Tensor:
        return self.encoder.encode_image(image)


class _Texts(nn.Module):
    def __init__(self, encoder: DualEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, text: Tensor) -> Tensor:
        return self.encoder.encode_text(text)


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Without torch's fused layer of inference, for which ONNX has no operator."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _export(module: nn.Module, example: Tensor, path: Path, name: str) -> None:
    """Raises UserError for a tower that torch cannot write as ONNX."""
    options: dict[str, Any] = {"dynamo": True, "opset_version": OPSET, "external_data": False, "verbose": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                module.eval(),
                (example,),
                path,
                input_names=[name],
                output_names=["unit_vector"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                **options,
            )
        except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
            raise UserError(f"the {name} tower cannot be written as ONNX: {str(error).splitlines()[0]}") from None
