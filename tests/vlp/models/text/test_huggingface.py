"""Text towers of transformers: their own tokenizers, their padding, and model folders that need no hub."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import train
from vlp.errors import UserError
from vlp.models import release
from vlp.models.kinds.two_towers import TwoTowers
from vlp.models.text.huggingface import HuggingFace

TEXTS = ["a red apple", "grinning face", "a", "an unknown word"]
WORDS = ["a", "red", "apple", "grinning", "face", "heart", "an"]
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
# what is peculiar: roberta's positions depend on its padding id 1; gpt2 has no padding and no end mark; t5 a decoder
KINDS = {
    "bert": (SMALL, {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}),
    "roberta": (SMALL, {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}),
    "gpt2": ({"n_embd": 32, "n_layer": 2, "n_head": 2, "eos_token_id": 0, "bos_token_id": 0}, {"<|endoftext|>": 0}),
    "t5": (
        {"d_model": 32, "num_layers": 2, "num_heads": 2, "d_kv": 16, "d_ff": 64},
        {"<pad>": 0, "</s>": 1, "<unk>": 2},
    ),
}


def save(kind: str, folder: Path) -> Path:
    """A folder as transformers writes it: configuration, weights and tokenizer of a small model."""
    options, special = KINDS[kind]
    vocab = {**special, **{word: i for i, word in enumerate(WORDS, len(special))}}
    unknown = next((t for t in special if "unk" in t.lower()), "<|endoftext|>")
    fast = Tokenizer(models.WordLevel(vocab, unk_token=unknown))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    first, last = {"bert": ("[CLS]", "[SEP]"), "roberta": ("<s>", "</s>"), "t5": ("", "</s>")}.get(kind, ("", ""))
    if first or last:
        fast.post_processor = processors.TemplateProcessing(
            single=f"{first} $A {last}".strip(), special_tokens=[(t, special[t]) for t in (first, last) if t]
        )
    padding = next((t for t in special if "pad" in t.lower()), None)
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=fast, unk_token=unknown, pad_token=padding)
    wrapped.save_pretrained(folder)
    config = transformers.AutoConfig.for_model(kind, vocab_size=len(vocab), **options)
    torch.manual_seed(1)
    transformers.AutoModel.from_config(config).eval().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=sorted(KINDS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(request.param, tmp_path_factory.mktemp(request.param) / "model")


def their_features(folder: Path, text: str, pool: str) -> torch.Tensor:
    """[hidden] of one text alone, by transformers: there is no padding to get wrong."""
    ids = transformers.AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt").input_ids
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    model = model.get_encoder() if model.config.is_encoder_decoder else model
    with torch.inference_mode():
        states = model(input_ids=ids).last_hidden_state[0]
    return {"mean": states.mean(0), "first": states[0], "last": states[-1]}[pool]


@pytest.mark.parametrize("pool", ["mean", "first", "last"])
def test_features_are_those_of_transformers_however_much_is_padded(folder: Path, pool: str) -> None:
    config = HuggingFace(model=str(folder), pretrained=True, pool=pool)  # type: ignore[arg-type]
    tokenizer = config.tokenizer()
    assert tokenizer is not None
    tower = config.build(8, tokenizer.vocab, tokenizer.context).eval()
    ids = tokenizer(TEXTS)
    padded = torch.cat([ids, torch.zeros(len(ids), 3, dtype=torch.int64)], 1)
    want = torch.stack([their_features(folder, text, pool) for text in TEXTS])
    with torch.inference_mode():
        torch.testing.assert_close(tower(padded), tower.head(want), atol=1e-5, rtol=1e-4)
        assert tower(torch.zeros(2, 4, dtype=torch.int64)).isfinite().all()  # texts without a token


def test_a_new_tower_of_the_same_form_has_other_weights(folder: Path) -> None:
    tokenizer = HuggingFace(model=str(folder)).tokenizer()
    assert tokenizer is not None
    torch.manual_seed(5)
    new = HuggingFace(model=str(folder)).build(8, tokenizer.vocab, 64).state_dict()
    old = HuggingFace(model=str(folder), pretrained=True).build(8, tokenizer.vocab, 64).state_dict()
    assert new.keys() == old.keys()
    assert any(not torch.equal(new[key], old[key]) for key in new if key.startswith("encoder"))


def test_a_model_folder_needs_nothing_else(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "theirs")
    text = HuggingFace(model=str(tmp_path / "theirs"), pretrained=True, context=6)
    config = TwoTowers(width=8, text=text, image_size=32)
    tokenizer = config.tokenizer(())
    encoder = config.build(tokenizer.vocab).eval()
    release.save(tmp_path / "model", config=config, encoder=encoder, tokenizer=tokenizer, notes={})
    shutil.rmtree(tmp_path / "theirs")
    loaded = release.load(tmp_path / "model")
    assert loaded.tokenizer(["a red apple " * 9]).shape[1] == loaded.tokenizer.context == 6
    assert torch.equal(loaded.tokenizer(TEXTS), tokenizer(TEXTS))
    with torch.inference_mode():
        torch.testing.assert_close(loaded.embed_texts(TEXTS), encoder.encode_text(tokenizer(TEXTS)))


def test_every_parameter_gets_a_gradient(folder: Path) -> None:
    """Else DDP would wait for it for ever."""
    config = HuggingFace(model=str(folder), pretrained=True)
    tokenizer = config.tokenizer()
    assert tokenizer is not None
    tower = config.build(8, tokenizer.vocab, 64)
    tower(tokenizer(TEXTS)).square().sum().backward()
    assert [name for name, p in tower.named_parameters() if p.grad is None] == []


def test_training_from_a_folder_makes_the_loss_fall(tmp_path: Path) -> None:
    flags = ["demo", "--data.shards", "bundled:emoji/test_attr", "--model.text.name", "huggingface"]
    flags += ["--model.text.model", str(save("bert", tmp_path / "bert")), "--model.text.pretrained"]
    flags += ["--model.image.widths", "8", "16", "--model.image.depths", "1", "1", "--model.width", "16"]
    flags += ["--data.captions.texts", "1", "--training.batch", "64", "--training.samples", "1280"]
    flags += ["--training.log-every", "1"]
    assert train.main([*flags, "--training.no-tensorboard", "--out", str(tmp_path / "run")]) == 0
    losses = [json.loads(row)["loss"] for row in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert sum(losses[-4:]) < sum(losses[:4])
    shutil.rmtree(tmp_path / "bert")
    assert release.load(tmp_path / "run" / "model").embed_texts(["red heart"]).shape == (1, 16)


def test_a_type_alone_takes_the_models_bpe() -> None:
    config = TwoTowers(width=8, text=HuggingFace(model="bert", options=SMALL), image_size=32)
    tokenizer = config.tokenizer(TEXTS * 3)
    encoder = config.build(tokenizer.vocab)
    assert encoder.text_tower.encoder.config.vocab_size == tokenizer.vocab
    assert encoder.encode_text(tokenizer(TEXTS)).shape == (4, 8)


def test_what_cannot_be_had_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no-such-type"}')
    for call in (HuggingFace(str(tmp_path)).tokenizer, lambda: HuggingFace(str(tmp_path)).build(8, 50, 8)):
        with pytest.raises(UserError, match=r"the (tokenizer|configuration) of .* cannot be loaded: "):
            call()
    with pytest.raises(UserError, match="takes texts of 512 tokens, but the context is 600"):
        HuggingFace("bert", options=SMALL).build(8, 50, 600)
