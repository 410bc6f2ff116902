"""Sentences for the person at the keyboard: the last thing on the screen, also where a launcher has its own report."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from vlp.config import run_main
from vlp.errors import UserError, tell_launcher

RANKS = """
import sys
from vlp.config import run_main
from vlp.distributed.world import connect
from vlp.errors import UserError

def main(argv):
    with connect() as world:
        if world.rank == 1:
            raise UserError("there is no \\x1b[31mapple here; look elsewhere")
        import time
        time.sleep(60)

sys.exit(run_main(main))
"""


def test_the_first_sentence_is_the_one_that_torchrun_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    tell_launcher("this came first")
    tell_launcher("and this is an echo")
    failure = ProcessFailure(local_rank=0, pid=1, exitcode=2, error_file=str(tmp_path / "error.json"))
    assert failure.message["message"] == "this came first"


def test_without_a_launcher_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def main(_: list[str]) -> int:
        raise UserError("no\x1b[2J apple")

    assert run_main(main, []) == 2
    assert capsys.readouterr().err == "error: no[2J apple\n"


@pytest.mark.slow
def test_torchrun_ends_with_the_sentence(tmp_path: Path) -> None:
    (tmp_path / "ranks.py").write_text(RANKS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*command, tmp_path / "ranks.py"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    *_, sentence, _ = done.stderr.rstrip().splitlines()  # a double line comes after it
    assert "there is no [31mapple here; look elsewhere" in sentence, done.stderr
