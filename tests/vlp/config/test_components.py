"""Which code a name may load: ours always, the user's own when the user has typed it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vlp.config.components import component, component_names, only_ours
from vlp.errors import UserError
from vlp.losses import Loss, Objective

FOCAL = """
from dataclasses import dataclass
from vlp.losses.infonce import InfoNCE

@dataclass(frozen=True, kw_only=True)
class Focal(InfoNCE):
    \"\"\"A loss of somebody's.\"\"\"
"""


def test_a_dotted_name_is_found_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_lab").mkdir()
    (tmp_path / "their_lab" / "focal.py").write_text(FOCAL)
    monkeypatch.chdir(tmp_path)
    assert component(Loss, "their_lab.focal").__name__ == "Focal"
    assert str(tmp_path) not in sys.path


def test_a_file_from_elsewhere_loads_only_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('it ran')")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "evil.py").write_text("raise SystemExit('it ran')")
    monkeypatch.chdir(tmp_path)
    with only_ours():
        assert component(Loss, "infonce").__name__ == "InfoNCE"
        for name in ("deep.evil", "os.path", "vlp.losses.infonce"):
            with pytest.raises(UserError, match="which a file from elsewhere may not load; give --trust"):
                component(Loss, name)


def test_names_are_the_files_of_the_menu() -> None:
    assert component_names(Objective) == [
        "albef",
        "alip",
        "barlip",
        "cacr",
        "ccl_k",
        "classes",
        "contrastive_gap",
        "counting",
        "cwcl",
        "cyclip",
        "dcl",
        "decoupled_uniformity",
        "distill",
        "features",
        "gcl",
        "history",
        "hn_nce",
        "infonce",
        "isogclr",
        "kernel",
        "m3col",
        "macl",
        "mochi",
        "moco",
        "multi_positive",
        "poly_view",
        "siglip",
        "spectral",
    ]


def test_the_command_imports_nothing_of_the_folder_it_is_started_in(tmp_path: Path) -> None:
    for name in ("train", "tyro", "tomllib", "random", "torch"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name} of this folder was imported')")
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-m", "vlp.cli", "train", "nonsense"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert 'no preset is called "nonsense"' in done.stderr
