"""Kinds of index and their options as they are typed: bad ones are one sentence, and none of it is FAISS's."""

from __future__ import annotations

import doctest
from pathlib import Path

import numpy as np
import pytest

from eval.index.hnsw import Hnsw
from eval.index.ivf import Ivf
from eval.index.pq import Pq
from eval.search import build as module
from eval.search.build import chosen_kind, main
from vlp.errors import UserError


def test_docstring_examples() -> None:
    assert doctest.testmod(module).failed == 0


def test_options_are_typed_by_their_fields() -> None:
    assert chosen_kind("ivf", ("cells=8", "codes=int8")) == Ivf(cells=8, codes="int8")
    assert chosen_kind("hnsw", ("links = 16",)) == Hnsw(links=16)


@pytest.mark.parametrize(
    "kind, options, sentence",
    [
        ("ivf", ("cells=-3",), '"option.cells" is -3, but it should be from 1 to'),
        ("ivf", ("cells=0",), '"option.cells" is 0'),
        ("ivf", ("cells=99999999999999999999",), '"option.cells" is 99999999999999999999'),
        ("ivf", ("cells=2.5",), "\"option.cells\" is 2.5, but it should be int"),
        ("ivf", ("cells=many",), "\"option.cells\" is 'many', but it should be int"),
        ("ivf", ("probes=0",), '"option.probes" is 0'),
        ("ivf", ("codes=int7",), 'did you mean "int8"'),
        ("ivf", ("cell=3",), 'an index of kind ivf has no option "cell"; did you mean "cells"'),
        ("ivf", ("cells",), '"cells" is no option of an index; write it as key=value'),
        ("hnsw", ("links=1",), '"option.links" is 1, but it should be from 2'),
        ("hnsw", ("build_effort=-5",), '"option.build_effort" is -5'),
        ("pq", ("pieces=0",), '"option.pieces" is 0'),
        ("flat", ("cells=3",), 'an index of kind flat has no option "cells"; it has none'),
        ("ivff", (), 'no index is called "ivff"; did you mean "ivf"'),
        ("tree", (), "known: flat, gpu_cagra, gpu_flat, gpu_ivf, hnsw, ivf, ivf_pq, ivf_sq8, milvus, opq, pq, rabitq"),
    ],
    ids=str,
)  # fmt: skip
def test_bad_kinds_and_options_are_one_sentence(kind: str, options: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        chosen_kind(kind, options)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "prototype" not in str(caught.value)


@pytest.mark.parametrize("kind", [Ivf(cells=-3), Hnsw(links=0), Pq(pieces=-1)], ids=lambda k: type(k).__name__)
def test_settings_out_of_bounds_never_reach_faiss(kind: Ivf | Hnsw | Pq) -> None:
    with pytest.raises(UserError, match="but it should be from"):
        kind.empty(8)


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (("--kind", "ivf", "--option", "cells=1000"), "needs at least 1,000 vectors to train on, but there are 24"),
        (("--kind", "pq"), "needs at least 256 vectors"),
        (("--thumbnail", "-1"), "--thumbnail is -1, but it should be 0 or more"),
    ],
    ids=str,
)
def test_the_command_refuses_what_cannot_be_built(
    flags: tuple[str, ...], sentence: str, model_folder: Path, shards: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        main([str(model_folder), str(shards), str(tmp_path / "index"), *flags])
    assert not (tmp_path / "index").exists()


def test_a_search_for_nobody_is_refused() -> None:
    index = Ivf(cells=1).empty(4)
    index.train(np.eye(4))
    index.add(np.eye(4), np.arange(4))
    with pytest.raises(UserError, match="at least 1 neighbour"):
        index.search(np.eye(4), 0)
