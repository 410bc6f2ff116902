"""An open_clip name without a tag has learned nothing: every command refuses it, unless it is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from eval import run
from eval.embeddings import embed
from eval.search import build, query
from vlp.errors import UserError

NAME = "ViT-S-32-alt"
ASKED = "--random-weights"


def test_random_weights_are_asked_for(shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, index = str(tmp_path / "store"), str(tmp_path / "index")
    commands = {
        run.main: [NAME, str(shards), "--languages", "en"],
        embed.main: [NAME, str(shards), store],
        build.main: [NAME, store, index],
        query.main: [index, "red circle", "-k", "3"],
    }
    for main, argv in commands.items():
        with pytest.raises(UserError, match=ASKED):
            main(argv)
        assert main([*argv, ASKED]) == 0
        assert f"{NAME} has random weights" in caplog.text
        caplog.clear()
