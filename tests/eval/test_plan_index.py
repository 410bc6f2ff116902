"""`vlp plan index`: sizes against real indexes, times against sums done by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eval.index import Index
from eval.measure_index import CODED, Costs, clustered, known_costs, measure, toml
from eval.plan_index import KINDS, PlanIndex, build_seconds, kind_for, main, rows
from vlp.config import component_name
from vlp.errors import UserError

COSTS = Costs("by hand", flops=1e9, graph=1e-6, insert=1e-7, encode=dict.fromkeys(CODED, 1e-8))


HERE = [pytest.param(name, marks=[pytest.mark.slow] * (name == "opq")) for name in KINDS if name != "milvus"]


@pytest.mark.parametrize("name", HERE)
def test_a_planned_size_is_that_of_a_real_index(name: str, tmp_path: Path) -> None:
    """Within 2 % and 64 kB, which headers and codebooks take."""
    count, width = 1200, 64
    kind, vectors = kind_for(name, count, width), clustered(count, width)
    made = kind.empty(width)
    made.train(vectors)
    made.add(vectors, np.arange(count), new=True)
    made.save(tmp_path / "index")
    assert kind.size(count, width) == pytest.approx((tmp_path / "index").stat().st_size, rel=0.02, abs=1 << 16)


def test_times_are_the_formulas_that_are_printed() -> None:
    plan = PlanIndex(width=512, cores=16, write=1.0)
    count, ivf = 1e9, kind_for("ivf", 1e9, 512)
    cells = ivf.number_of_cells()
    assert cells == 2**17  # near 4 times the square root
    training = 10 * ivf.sample_to_train() * 2 * 512 * cells / 1e9 / 16
    adding = count * (2 * 512 * cells / 1e9 + 512e-8) / (8 * 16)
    moving = 2 * (count * (4 * 512 + 8) + 4 * 512 * cells) / 1e9
    assert build_seconds(ivf, count, plan, COSTS, ranks=8) == pytest.approx(training + adding + moving)
    hnsw = kind_for("hnsw", 2**30, 512)
    times = [build_seconds(hnsw, 2**30, plan, COSTS, ranks=ranks) for ranks in (1, 64)]
    assert times[0] == times[1] > 2**30 * 512 * 30 * 1e-6 / 16
    milvus = kind_for("milvus", 2**30, 512)
    one, many = (build_seconds(milvus, 2**30, plan, COSTS, ranks=ranks) for ranks in (1, 64))
    assert one == pytest.approx(64 * many)
    assert many == pytest.approx(2**30 * 512 * (19 * 1e-6 / 16 + 1e-7) / 64)  # a segment is 2**19 vectors


def test_machines_and_disk_follow_from_the_sizes() -> None:
    plan = PlanIndex(width=100, memory=10.0, row=50.0, ranks=(1,))
    made = {row.kind: row for row in rows(plan, 1e8, COSTS)}
    assert made["flat"].memory == 1e8 * 408
    assert made["flat"].disk == 1e8 * (408 + 400 + 50)
    assert (made["flat"].machines, made["milvus"].machines) == (0, 7)  # 40.8 GB in one; 67.4 GB in several of 10 GB
    disk = made["ivf_sq8, on disk"]
    assert disk.memory == 400 * disk.settings["cells"]
    assert (disk.machines, disk.disk) == (1, made["ivf_sq8"].disk)
    assert {component_name(kind_for(name, 1e8, 100), Index) for name in KINDS} == set(KINDS)


def test_the_table_fits_80_columns_and_json_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines()[:-4])) <= 80
    for words in ("10,000,000 vectors", "1,000,000,000 vectors", "5,000,000,000 vectors", "recall is not planned"):
        assert words in printed
    assert main(["--vectors", "1e9", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)["plans"]["1000000000"]
    assert [row["kind"] for row in planned if "disk" not in row["kind"]] == list(KINDS)
    assert all(set(row["build_s"]) == {"1", "8", "64"} for row in planned)


def test_bad_numbers_and_files_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "costs.toml").write_text(toml(replace(COSTS, encode={"flat": 1e-8})))
    (tmp_path / "no.toml").write_text("][")
    for flags, words in (
        (["--vectors", "1"], "2 or more"),
        (["--vectors", "inf"], "finite"),
        (["--costs", str(tmp_path / "none.toml")], "no file of costs"),
        (["--costs", str(tmp_path / "costs.toml")], 'lacks the cost "encode.ivf"'),
        (["--costs", str(tmp_path / "no.toml")], "not valid TOML"),
        (["--ranks", "0"], "ranks"),
    ):
        with pytest.raises(UserError, match=words) as error:
            main(flags)
        assert "\n" not in str(error.value)


def test_costs_survive_their_file(tmp_path: Path) -> None:
    (tmp_path / "costs.toml").write_text(toml(COSTS))
    assert known_costs(tmp_path / "costs.toml") == COSTS


@pytest.mark.slow
def test_costs_can_be_measured_again(tmp_path: Path) -> None:
    """They are of the order of those that come along."""
    measure(tmp_path / "costs.toml")
    now, then = known_costs(tmp_path / "costs.toml"), known_costs()
    assert 0.1 < now.flops / then.flops < 10
    assert 0.1 < now.graph / then.graph < 10
