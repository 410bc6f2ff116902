"""The fast path of CLIP's tokenizer against open_clip's own."""

import open_clip
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vlp.models.tokenizer import OpenClipTokenizer

PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=400)
FAST, THEIRS = OpenClipTokenizer("ViT-B-32"), open_clip.get_tokenizer("ViT-B-32")


@given(st.lists(PRINTABLE | st.text(max_size=60), max_size=4))
@example(["a photo of it's <end_of_text> 'Quoted' 1234 &amp; &", "tabs\tand\nlines", "", "\u00a0wide\u3000space"])
@example(["word " * 200, "x" * 500, "é café ŒUVRE ﬁne", "schÃ¶n", "\x1b[31mred\x1b[0m", "a\x00b"])
@settings(max_examples=300, deadline=None)
def test_the_ids_are_those_of_open_clip(texts: list[str]) -> None:
    assert torch.equal(FAST(texts), THEIRS(texts) if texts else torch.zeros(0, 77, dtype=torch.int64))
