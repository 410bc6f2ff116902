"""Any text encoder of transformers, with its own tokenizer, and a linear head into the shared space."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from vlp.config import COMMON
from vlp.config.bounds import Count
from vlp.errors import UserError
from vlp.models import TextTower
from vlp.models.hub import fetching
from vlp.models.tokenizer import FastTokenizer


@dataclass(frozen=True)
class HuggingFace(TextTower):
    """A text encoder of transformers: by its name on the hub, by a folder, or a new one of a type such as bert."""

    model: Annotated[str, COMMON] = "bert"
    """name on the hub, folder with a config.json, or a type of transformers' for a new model: bert, gpt2, t5 ..."""
    pretrained: Annotated[bool, COMMON] = False
    """start from the pretrained weights; a type alone has none"""
    options: dict[str, Any] = field(default_factory=dict)
    """changes to the configuration, such as num_hidden_layers"""
    pool: Literal["mean", "first", "last"] = "mean"
    """mean over the tokens, the first ([CLS] of bert), or the last (the end mark of gpt2 and t5)"""
    context: Count = 64
    """most tokens a text may have, where the model brings its tokenizer; longer ones are cut"""
    config: str = ""
    """the whole configuration as JSON: model folders have it, so that nothing is looked up when they are opened"""

    def tokenizer(self) -> FastTokenizer | None:
        """The tokenizer of the named model; None for a type alone. Raises UserError if it cannot be loaded."""
        if self._is_type():
            return None
        from transformers import AutoTokenizer

        with fetching(f'the tokenizer of "{self.model}"', self._repository()):
            fast = AutoTokenizer.from_pretrained(self.model)
        if not fast.is_fast:
            raise UserError(
                f'"{self.model}" has no tokenizer.json; save its tokenizer with one (AutoTokenizer, use_fast)'
            )
        return FastTokenizer(fast.backend_tokenizer.to_str(), self.context, shift=1)

    def resolved(self) -> HuggingFace:
        """The same tower with its whole configuration written out."""
        return replace(self, config=json.dumps(self._configuration().to_dict()))

    def build(self, width: int, vocab: int, context: int) -> nn.Module:
        """A module [B, L] -> [B, width]; 0 is padding, other ids are the tokenizer's plus 1.

        Raises UserError if the configuration or the weights cannot be loaded, or if texts may be too long for it.
        """
        import transformers

        auto: Any = transformers.AutoModel
        configuration = self._configuration()
        if self._is_type():  # the ids of any tokenizer fit; the last row is that of padding
            configuration.vocab_size, configuration.pad_token_id = vocab, vocab - 1
        longest = context if self._is_type() else self.context
        limit = getattr(configuration, "max_position_embeddings", None) or longest
        if longest > limit:
            raise UserError(f'"{self.model}" takes texts of {limit} tokens, but the context is {longest}: set it lower')
        if self.pretrained and not self.config:
            with fetching(f'the weights of "{self.model}"', self._repository()):
                encoder = auto.from_pretrained(self.model, config=configuration, dtype=torch.float32)
        else:
            encoder = auto.from_config(configuration, dtype=torch.float32)
        if vocab - 1 > configuration.vocab_size:
            encoder.resize_token_embeddings(vocab - 1)
        if getattr(configuration, "is_encoder_decoder", False):
            encoder = encoder.get_encoder()
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None  # its output is not used, and DDP wants a gradient for every parameter
        encoder.config.use_cache = False
        return HuggingFaceText(encoder, self.pool, width)

    def _repository(self) -> str:
        """OWNER/NAME of the model on the hub; "" where it is a folder."""
        return "" if Path(self.model).is_dir() else self.model

    def _is_type(self) -> bool:
        """Whether `model` is a type of transformers', not a model."""
        from transformers import CONFIG_MAPPING

        return not self.pretrained and self.model in CONFIG_MAPPING and not Path(self.model).is_dir()

    def _configuration(self) -> Any:
        from transformers import AutoConfig

        if self.config:
            tree = json.loads(self.config)
            return AutoConfig.for_model(tree.pop("model_type"), **tree)
        if self._is_type():
            return AutoConfig.for_model(self.model, **self.options)
        with fetching(f'the configuration of "{self.model}"', self._repository()):
            return AutoConfig.from_pretrained(self.model, **self.options)


class HuggingFaceText(nn.Module):
    """The module of `HuggingFace`."""

    shift = 1  # a token's id less the row of its embedding

    def __init__(self, encoder: Any, pool: str, width: int) -> None:
        super().__init__()
        self.pool = pool
        self.encoder = encoder
        self.padding = encoder.config.pad_token_id or 0
        self.head = nn.Linear(encoder.config.hidden_size, width, bias=False)

    def forward(self, text: Tensor) -> Tensor:
        """Features [B, width] of token ids [B, L], 0 = padding."""
        kept = text != 0
        ids = torch.where(kept, text - 1, self.padding)
        seen = kept.clone()
        seen[:, 0] = True  # a text without a token must attend to something
        x = self.encoder(input_ids=ids, attention_mask=seen.long()).last_hidden_state
        if self.pool == "mean":
            share = seen.unsqueeze(-1).to(x.dtype)
            x = (x * share).sum(1) / share.sum(1)
        else:
            place = seen.sum(1) - 1 if self.pool == "last" else torch.zeros_like(text[:, 0])
            x = x[torch.arange(len(x), device=x.device), place]
        return self.head(x)  # type: ignore[no-any-return]
