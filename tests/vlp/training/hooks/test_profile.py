"""training.profile: a trace of so many steps, whole or absent."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from tests.vlp.training.tiny_run import trainer
from vlp.training.settings import Training

BASE = Training(samples=12 * 16, batch=16, tensorboard=False, checkpoint_every=1e9)


def test_a_trace_of_three_steps(tmp_path: Path) -> None:
    traced = trainer(tmp_path / "a", replace(BASE, profile=3)).fit()
    events = json.loads((tmp_path / "a" / "trace.json").read_text())["traceEvents"]
    assert len({e["name"] for e in events if e["name"].startswith("ProfilerStep#")}) == 3
    assert any(e["name"].startswith("aten::") for e in events)
    plain = trainer(tmp_path / "b", BASE).fit()
    assert not (tmp_path / "b" / "trace.json").exists()
    theirs = plain.model.state_dict()
    assert all(value.equal(theirs[key]) for key, value in traced.model.state_dict().items())
