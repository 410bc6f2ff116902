"""Versions in a record: those that are installed, and no failure for those that are not."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib import metadata

import torch

import vlp
from vlp.record import LIBRARIES, versions


def test_installed_libraries_are_named_with_their_versions() -> None:
    known = versions()
    assert (known["python"], known["vlp"]) == (platform.python_version(), vlp.__version__)
    assert known["torch"] == metadata.version("torch")
    assert known["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert set(known) <= {"python", "vlp", *LIBRARIES}


def test_others_are_added_and_a_missing_one_is_left_out() -> None:
    known = versions(("pytest", "no-such-distribution", "torch"))
    assert known["pytest"] == metadata.version("pytest")
    assert "no-such-distribution" not in known
    assert {k: v for k, v in known.items() if k != "pytest"} == versions()


def test_a_record_needs_no_torch() -> None:
    code = "import sys, vlp.record; vlp.record.versions(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
