"""Text to token ids: a byte-level BPE trained on the captions, or open_clip's own tokenizers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Protocol, cast

import torch
from annotated_types import Ge
from torch import Tensor

from vlp.errors import UserError
from vlp.legible import plain

if TYPE_CHECKING:
    from open_clip import SimpleTokenizer

PAD, UNKNOWN, START, END = range(4)
REMEMBERED = 100_000  # texts whose ids a tokenizer keeps, some 30 MB
SPECIAL = ("<pad>", "<unk>", "<start>", "<end>")


class Tokenizer(Protocol):
    """What the stream, the towers and evaluation ask of a tokenizer."""

    vocab: int
    context: int

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Token ids [B, L], int64, padded with 0."""
        ...

    def tokens(self) -> Mapping[str, int]:
        """Every token of the vocabulary, and its id."""
        ...

    def save(self, path: Path) -> None:
        """Write the tokenizer to `path` (JSON)."""
        ...


class FastTokenizer:
    """A tokenizer of the `tokenizers` package; rows trimmed to the longest text of the call.

    `shift` is added to its ids: 1 keeps 0 for padding where it has another meaning, or none, in the tokenizer itself.
    """

    def __init__(self, text: str, context: int, *, shift: int = 0) -> None:
        from tokenizers import Tokenizer as Fast

        self._fast = Fast.from_str(text)
        self._fast.no_padding()
        self._fast.enable_truncation(context)
        self.shift = shift
        self._known: dict[str, list[int]] = {}  # short captions come again and again
        self.vocab = max(self._fast.get_vocab().values()) + 1 + shift
        self.context = context

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Token ids [B, L], int64, padded with 0; L is that of the longest text, at most `context`."""
        unknown = sorted({t for t in texts if t not in self._known})
        if len(self._known) + len(unknown) > REMEMBERED:
            self._known.clear()
            unknown = sorted(set(texts))
        for text, encoded in zip(unknown, self._fast.encode_batch(unknown), strict=True):
            self._known[text] = [i + self.shift for i in encoded.ids]
        rows = [self._known[t] for t in texts]
        longest = max(map(len, rows), default=0)
        padded = [row + [PAD] * (longest - len(row)) for row in rows]
        return torch.tensor(padded, dtype=torch.int64).reshape(len(rows), longest)

    def tokens(self) -> Mapping[str, int]:
        """Every token of the vocabulary, and its id."""
        return {token: id + self.shift for token, id in self._fast.get_vocab().items()}

    def cut_at(self, context: int) -> FastTokenizer:
        """The same tokenizer for texts of at most `context` tokens."""
        return FastTokenizer(self._fast.to_str(), context, shift=self.shift)

    def save(self, path: Path) -> None:
        """Write the tokenizer to `path` in the `tokenizers` JSON format; with a shift, as a part of it."""
        text = self._fast.to_str()
        path.write_text(f'{{"shift": {self.shift}, "tokenizer": {text}}}' if self.shift else text, encoding="utf-8")


@dataclass(frozen=True)
class Bpe:
    """Configuration of a BPE trained on the captions."""

    vocab: Annotated[int, Ge(260)] = 8192
    """size of the vocabulary: 256 bytes and 4 special tokens at least"""
    context: Annotated[int, Ge(3)] = 32
    """most tokens a text may have, its two end marks included; longer ones are cut"""
    split_han: bool = True
    """take every Chinese character as a word of its own"""

    def train(self, captions: Iterable[str]) -> FastTokenizer:
        """A tokenizer trained on `captions`; the same captions in the same order give the same tokenizer."""
        from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
        from tokenizers import Tokenizer as Fast

        fast = Fast(models.BPE(unk_token=SPECIAL[UNKNOWN]))
        fast.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        han = pre_tokenizers.Split(Regex(r"[\u4e00-\u9fff]"), "isolated")  # no spaces: every character is a word
        spaced = pre_tokenizers.ByteLevel(add_prefix_space=True)
        fast.pre_tokenizer = pre_tokenizers.Sequence([han, spaced] if self.split_han else [spaced])
        fast.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab,
            special_tokens=list(SPECIAL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        fast.train_from_iterator(captions, trainer)
        fast.post_processor = processors.TemplateProcessing(
            single=f"{SPECIAL[START]} $A {SPECIAL[END]}", special_tokens=[(SPECIAL[START], START), (SPECIAL[END], END)]
        )
        return FastTokenizer(fast.to_str(), self.context)


class OpenClipTokenizer:
    """The tokenizer that open_clip pairs with a model name; rows are padded to the model's context.

    CLIP's own BPE is asked once for each word that it has not seen: its tokens never reach across white space.
    """

    def __init__(self, architecture: str, files: Mapping[str, str] | None = None) -> None:
        """`files` are what `save` kept of a tokenizer that open_clip itself does not have, by name."""
        import open_clip

        self.architecture, self._files = architecture, dict(files or {})
        with TemporaryDirectory() as folder:
            for name, text in self._files.items():
                if Path(name).name != name:
                    raise UserError(f'a tokenizer\'s file is called "{plain(name)}", which is no name inside a folder')
                (Path(folder) / name).write_text(text, encoding="utf-8")
            place = f"local-dir:{folder}" if self._files else architecture
            self._encode: Callable[[list[str]], Tensor] = open_clip.get_tokenizer(place)
        self.context = int(self._encode.context_length)  # type: ignore[attr-defined]
        self.vocab = int(getattr(self._encode, "vocab_size", 0))
        simple = type(self._encode) is open_clip.SimpleTokenizer and self._encode.reduction_fn is None
        self._words: dict[str, list[int]] | None = {} if simple else None

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Token ids [B, context], int64."""
        if self._words is None:
            return self._encode(list(texts))
        rows = torch.zeros(len(texts), self.context, dtype=torch.int64)
        start, end = self._encode.sot_token_id, self._encode.eot_token_id  # type: ignore[attr-defined]
        for row, text in zip(rows.numpy(), texts, strict=True):
            ids = self._ids(text, self._words)[: self.context - 2]
            row[: len(ids) + 2] = [start, *ids, end]
        return rows

    @property
    def theirs(self) -> Any:
        """open_clip's own tokenizer."""
        return self._encode

    @property
    def files(self) -> dict[str, str]:
        """Files by name of which open_clip makes this tokenizer; none, if it is open_clip's own."""
        return self._files or self._foreign_files()

    def _ids(self, text: str, words: dict[str, list[int]]) -> list[int]:
        """The ids of a text, without those of its start and end."""
        simple = cast("SimpleTokenizer", self._encode)
        # cleaning mends encodings, HTML and white space: it has nothing to mend in printable ASCII without "&"
        plain = text.isascii() and text.isprintable() and "&" not in text
        if not plain:
            return list(simple.encode(text))
        ids: list[int] = []
        for word in text.split():
            known = words.get(word)
            if known is None:
                if len(words) >= REMEMBERED:
                    words.clear()
                known = words[word] = list(simple.encode(word))
            ids += known
        return ids

    def tokens(self) -> Mapping[str, int]:
        """Every token of the vocabulary, and its id."""
        simple = getattr(self._encode, "encoder", None)  # CLIP's own BPE; others are transformers' tokenizers
        return dict(simple) if simple is not None else dict(self._encode.tokenizer.get_vocab())  # type: ignore[attr-defined]

    def save(self, path: Path) -> None:
        """Write the name by which open_clip finds the tokenizer again, and the files that open_clip does not have."""
        tree = {"open_clip": self.architecture, "files": self.files}
        path.write_text(json.dumps({key: value for key, value in tree.items() if value}) + "\n", encoding="utf-8")

    def _foreign_files(self) -> dict[str, str]:
        """What a folder needs for open_clip to make this tokenizer of it; nothing, if it is open_clip's own."""
        import open_clip

        own = isinstance(self._encode, open_clip.SimpleTokenizer)
        if own and ":" not in self.architecture:
            return {}
        text = open_clip.get_model_config(self.architecture)["text_cfg"]
        with TemporaryDirectory() as folder:
            if not own:
                self._encode.save_pretrained(folder)  # type: ignore[attr-defined]
            files = {file.name: file.read_text(encoding="utf-8") for file in sorted(Path(folder).glob("*.json"))}
        return {"open_clip_config.json": json.dumps({"model_cfg": {"text_cfg": text}}), **files}


def load_tokenizer(path: Path, context: int) -> Tokenizer:
    """The tokenizer that `save` wrote to `path`. Raises UserError if it is none."""
    try:
        return tokenizer_from(path.read_text(encoding="utf-8"), context)
    except UserError:
        raise
    except Exception as error:  # tokenizers raises nothing more special
        raise UserError(f"{path} holds no tokenizer ({plain(error)}); copy the folder again") from None


def tokenizer_from(text: str, context: int) -> Tokenizer:
    """The tokenizer whose `save` wrote `text`; raises whatever another text brings about."""
    tree = json.loads(text)
    if "open_clip" in tree:
        return OpenClipTokenizer(tree["open_clip"], tree.get("files"))
    if "shift" in tree:
        return FastTokenizer(json.dumps(tree["tokenizer"]), context, shift=tree["shift"])
    return FastTokenizer(text, context)
