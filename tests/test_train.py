"""train.py as a person uses it: presets, launchers, resuming, and what it says of bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import train
from data_pipelines.ledger import DropBudgetExceeded
from data_pipelines.settings import Captions, Remote, Workers
from eval.configuration import read
from eval.run import evaluate
from eval.tasks.retrieval import Retrieval
from vlp.config import PRESETS, build, read_preset
from vlp.errors import UserError
from vlp.models import release
from vlp.training.interruption import TRY_AGAIN

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
SMALL = (
    *(
        "demo",
        "--data.shards",
        "bundled:emoji/val",
        "--model.image.widths",
        "8",
        "16",
        "--model.image.depths",
        "1",
        "1",
    ),
    *("--model.width", "16", "--model.text.hidden", "32", "--model.bpe.vocab", "600", "--training.batch", "64"),
    *("--training.log-every", "1", "--training.no-tensorboard"),
)
# In float64 rounding is too small to tip a ReLU over: the whole recipe gives the same curve on any number of ranks.
PROOF = (*SMALL, "--training.precision", "fp64", "--training.samples", "512")
SAME = 1e-12


def launch(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=280, check=False)


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("preset", sorted(p.stem for p in PRESETS.glob("*.toml")))
def test_every_preset_is_a_run(preset: str) -> None:
    assert build(train.RunConfig, read_preset(preset)).data.shards


def test_a_run_leaves_a_model_and_its_record_which_is_a_preset(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert train.main([*SMALL, "--out", str(out), "--training.samples", "256"]) == 0
    model = release.load(out / "model")
    assert model.embed_texts(["red heart"]).shape == (1, 16)
    record = json.loads((out / "train.json").read_text())
    assert record["samples"] == 256
    assert record["model_id"] == model.id
    again = tmp_path / "again"
    assert train.main([str(out / "config.toml"), "--out", str(again)]) == 0
    assert release.load(again / "model").id == model.id  # the same weights, to the bit
    assert losses(again) == losses(out)


VALIDATED = """
[eval.tasks.retrieval]
name = "retrieval"
data = "bundled:emoji/test_attr"
ks = [1, 10]

[eval.tasks.tones]
name = "zero_shot"
label = "tone"
data = "bundled:emoji/test_attr"
"""


def test_the_tasks_of_a_preset_are_measured_under_way(tmp_path: Path) -> None:
    preset = tmp_path / "validated.toml"
    preset.write_text(VALIDATED)
    flags = ["--training.eval-every", "2", "--training.samples", "256", "--eval.tasks.retrieval.languages", "zh"]
    out = tmp_path / "run"
    assert train.main([SMALL[0], str(preset), *SMALL[1:], "--out", str(out), *flags]) == 0
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    measured = [row for row in rows if "test_attr/tone/acc1" in row]
    assert [row["step"] for row in measured] == [2, 4]
    assert all("test_attr/zh/text_to_image/recall@10" in row for row in measured)
    assert all("val/en/text_to_image/recall@1" in row for row in measured)  # the preset's own task goes on
    assert not any(key.startswith("test_attr/en/") for row in rows for key in row)
    words = json.loads((out / "validation.json").read_text())
    assert words["test_attr/zh/text_to_image/recall@1"]["label"] == ["Chinese", "caption → picture"]
    final = evaluate(release.load(out / "model"), read(data=["bundled:emoji/test_attr"]))
    last = measured[-1]["test_attr/zh/text_to_image/recall@10"]
    assert final["metrics"]["test_attr/zh/text_to_image/recall@10"] == pytest.approx(last, abs=1e-6)
    saved = build(train.RunConfig, read_preset(str(out / "config.toml")))
    assert saved.eval.tasks["retrieval"] == Retrieval(data="bundled:emoji/test_attr", languages=("zh",), ks=(1, 10))


def test_what_an_objective_needs_and_nothing_gives_is_refused_before_the_first_step(tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "run"), "--training.samples", "64"]
    for name, sentence in (
        ("counting", r'loss\.name "counting" needs wrong captions of each picture, .* choose data\.negatives\.name'),
        ("gcl", r"needs a weight for each pair, but data\.weights is empty"),
        ("poly_view", r"needs several views of each picture, but data\.views is 1"),
    ):
        with pytest.raises(UserError, match=sentence):
            train.main([*SMALL, *out, "--loss.name", name])
    with pytest.raises(UserError, match='"multi_positive" needs an id for each pair'):
        train.main([*SMALL, *out, "--data.ids="])
    with pytest.raises(UserError, match=r'choose\.name "jest" needs a teacher'):
        train.main([*SMALL, *out, "--choose.name", "jest"])
    with pytest.raises(UserError, match="all views of a picture would be the same"):
        train.main([*SMALL, *out, "--augment.name", "none", "--data.views", "2"])
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_views_wrong_and_swapped_captions_are_trained_on_alike_whole_and_in_chunks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tower = ["--model.image.norm", "layer", "--training.precision", "fp64", "--training.samples", "128"]
    data = ["--data.views", "2", "--data.negatives.name", "attribute", "--data.negatives.count", "2"]
    curves = {}
    for loss in (["poly_view"], ["infonce"], ["counting", "--loss.base.name", "multi_positive"]):
        for chunk in ("0", "24"):
            out = tmp_path / f"{loss[0]}-{chunk}"
            flags = [*tower, *data, "--data.captions.swapped", "0.3", "--training.chunk", chunk, "--loss.name", *loss]
            assert train.main([*SMALL, *flags, "--out", str(out)]) == 0
            curves[loss[0], chunk] = losses(out)
        assert curves[loss[0], "0"] == pytest.approx(curves[loss[0], "24"], rel=1e-10)
    assert "ON PURPOSE, 30% of the pictures are given another one's captions" in capsys.readouterr().out
    assert len({curve[0] for curve in curves.values()}) >= 3


def test_validation_that_cannot_work_is_refused_before_the_first_step(tmp_path: Path) -> None:
    flags = ["--training.eval-every", "2", "--out", str(tmp_path / "run"), "--eval.tasks.mine.name", "retrieval"]
    with pytest.raises(UserError, match="has no data"):
        train.main([*SMALL, *flags])
    flags += ["--eval.tasks.mine.data", "bundled:emoji/val"]
    with pytest.raises(UserError, match='no captions in "fr"; it has texts in: en, zh'):
        train.main([*SMALL, *flags, "--eval.tasks.mine.languages", "fr"])
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (("nonsense",), 'no preset is called "nonsense"'),
        (("demo", "--data.shards", "/no/such/shards"), "/no/such/shards"),
        (("demo", "--data.shards", ""), "an empty shard specification"),
        (("demo", "--loss.name", "infonse"), 'did you mean "infonce"'),
        (("demo", "--crop", "0.9", "0.5"), '"crop" is 0.9, 0.5, but it should be the least share'),
        (("demo", "--data.window", "0"), '"data.window" is 0, but it should be 1 or more'),
        (("demo", "--data.source", "x:y"), "data.shards and data.source are both given"),
        ((*SMALL, "--training.batch", "4000000"), "GiB"),
    ],
    ids=lambda v: v[-1] if isinstance(v, tuple) else "",
)
def test_bad_input_is_one_sentence(flags: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        train.main([*flags, "--out", str(tmp_path / "run"), "--training.samples", "64"])
    assert sentence in str(caught.value)
    assert not (tmp_path / "run" / "model").exists()


def test_the_command_line_says_it_in_one_line_with_status_2(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[training]\nsampels = 5\n")
    done = launch(sys.executable, "train.py", str(tmp_path / "bad.toml"))
    assert done.returncode == 2
    assert done.stderr.strip() == 'error: unknown key "training.sampels"; did you mean "samples"?'


@pytest.mark.slow
def test_torchrun_and_accelerate_train_as_one_process(tmp_path: Path) -> None:
    assert train.main([*PROOF, "--out", str(tmp_path / "one")]) == 0
    launchers = {
        "torchrun": [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", "2"],
        "accelerate": [
            *(str(BIN / "accelerate"), "launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
            *("--mixed_precision", "no", "--dynamo_backend", "no"),
        ],
    }
    for name, command in launchers.items():
        done = launch(*command, "train.py", *PROOF, "--out", str(tmp_path / name))
        assert done.returncode == 0, done.stderr[-2000:]
        assert losses(tmp_path / name) == pytest.approx(losses(tmp_path / "one"), rel=SAME)


@pytest.mark.slow
def test_two_ranks_go_on_as_one(tmp_path: Path) -> None:
    """A checkpoint of two ranks after four of eight steps, continued by one process, ends where one process would."""
    flags = [*PROOF, "--training.keep", "9", "--training.checkpoint-every", "0"]
    assert train.main([*flags, "--out", str(tmp_path / "one")]) == 0
    both = str(tmp_path / "both")
    done = launch(str(BIN / "torchrun"), "--standalone", "--nproc-per-node", "2", "train.py", *flags, "--out", both)
    assert done.returncode == 0, done.stderr[-2000:]
    saved = sorted((tmp_path / "both" / "checkpoints").iterdir())
    assert len(saved) == 8
    for later in saved[4:]:
        shutil.rmtree(later)
    assert train.main([*flags, "--out", both]) == 0
    assert losses(tmp_path / "both") == pytest.approx(losses(tmp_path / "one"), rel=SAME)


def test_the_ledger_goes_with_the_run_and_through_a_restart(
    tmp_path: Path, damaged_shards: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    flags = [*SMALL, "--data.shards", damaged_shards, "--out", str(out), "--training.checkpoint-every", "0"]
    flags += ["--training.samples", "256", "--training.keep", "9", "--data.drop-budget", "0.5"]
    assert train.main(flags) == 0
    ledger = json.loads((out / "ledger.json").read_text())
    lost = ledger["dropped"]
    assert ledger["delivered"] == 256
    assert 10 < lost < 60
    assert ledger["by_reason"] == {"undecodable picture": lost}
    assert {shard for _, shard, _ in ledger["drops"]} <= {str(p) for p in Path(damaged_shards).glob("*.tar")}
    assert f"256 samples were delivered, {lost} were not ({lost} undecodable picture)" in capsys.readouterr().out
    for later in sorted((out / "checkpoints").iterdir())[2:]:
        shutil.rmtree(later)
    (out / "ledger.json").unlink()
    made = (out / "tokenizer.json").stat().st_mtime_ns
    assert train.main(flags) == 0
    assert (out / "tokenizer.json").stat().st_mtime_ns == made  # not trained again
    assert json.loads((out / "ledger.json").read_text()) == ledger


@pytest.mark.parametrize("key", ["texts = 2", "cache_bytes = 5", "min_side = 5", "read_ahead_bytes = 7"])
def test_a_knob_that_moved_into_a_group_is_named_where_it_is(key: str, tmp_path: Path) -> None:
    name = key.split(" ", maxsplit=1)[0]
    (tmp_path / "old.toml").write_text(f"[data]\n{key}\n")
    with pytest.raises(UserError, match=rf'unknown key "data\.{name}"; it is "data\.\w+\.{name}"'):
        train.main([str(tmp_path / "old.toml")])


def test_only_what_changes_batches_is_the_runs_identity() -> None:
    """Groups of the stream that change how fast data come may differ in a resumed run; every other key counts."""
    run = build(train.RunConfig, read_preset("demo"))
    same = train.data_identity(run)
    assert not {"remote", "workers", "drop_budget"} & same.keys()
    faster = replace(
        run.data, workers=Workers(count=3, cache_bytes=0), remote=Remote(request_attempts=1), drop_budget=1
    )
    assert train.data_identity(replace(run, data=faster)) == same
    assert train.data_identity(replace(run, data=replace(run.data, captions=Captions(texts=2)))) != same
    assert train.data_identity(replace(run, data=replace(run.data, window=7))) != same
    assert train.data_identity(replace(run, crop=(0.5, 1.0))) != same


def test_too_many_losses_leave_their_table_in_the_run(tmp_path: Path, damaged_shards: str) -> None:
    out = tmp_path / "run"
    with pytest.raises(DropBudgetExceeded):
        train.main([*SMALL, "--data.shards", damaged_shards, "--out", str(out), "--training.samples", "1280"])
    table = (out / "drop_budget.txt").read_text()
    assert "drop_budget allows 1.00%" in table
    assert f"in {damaged_shards}" in table


@pytest.mark.slow
def test_a_second_run_in_the_same_folder_is_refused_and_a_signal_at_the_start_loses_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "train.py", *SMALL, "--out", str(tmp_path / "run"), "--training.samples", "64000000"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "run" / ".lock").exists():
        assert first.poll() is None
        time.sleep(0.01)
    second = launch(*command)
    assert second.returncode == 2
    assert f"is being written by another program (process {first.pid} on" in second.stderr
    first.send_signal(signal.SIGTERM)
    assert first.wait(60) == TRY_AGAIN
    early = subprocess.Popen(
        [*command[:-1], "640"], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "run" / ".lock").exists():
        assert early.poll() is None
        time.sleep(0.001)
    early.send_signal(signal.SIGUSR1)
    _, output = early.communicate(timeout=60)
    assert early.returncode == TRY_AGAIN
    assert (tmp_path / "run" / "requeue").exists()
    assert "nothing is lost" in output or "give the same command again to go on from here" in output


def test_a_webdataset_pipeline_of_ones_own_trains_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tar = ROOT / "data_pipelines/bundled/emoji/val/00000.tar"
    (tmp_path / "lab_pipes.py").write_text(
        "import webdataset\n"
        "def make(rank, size, seed, epoch):\n"
        f"    pipe = webdataset.WebDataset({str(tar)!r}, shardshuffle=False).shuffle(200, seed=seed + epoch)\n"
        '    return pipe.slice(rank, None, size).decode("pil")\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    out = tmp_path / "run"
    flags = [*SMALL, "--data.shards", "", "--data.source", "lab_pipes:make", "--out", str(out)]
    assert train.main([*flags, "--training.samples", "256", "--training.checkpoint-every", "0"]) == 0
    assert release.load(out / "model").embed_texts(["red heart"]).shape == (1, 16)
    assert "a resumed run begins it anew" in capsys.readouterr().out
    assert json.loads((out / "ledger.json").read_text())["delivered"] == 256
    shutil.rmtree(max((out / "checkpoints").iterdir()))
    assert train.main([*flags, "--training.samples", "256", "--training.checkpoint-every", "0"]) == 0
    assert json.loads((out / "ledger.json").read_text())["delivered"] == 256
    assert len(losses(out)) == 4


def test_any_caption_language_is_added_by_a_flag(tmp_path: Path) -> None:
    """A language, a nested path and the .txt, beside those of the preset; one that no sample has costs nothing."""
    flags = [*SMALL, "--out", str(tmp_path), "--training.samples", "64", "--data.captions.weights.fr", "1"]
    flags += ["--data.captions.weights.txt", "0.5", "--data.captions.weights.group", "2"]
    assert train.main(flags) == 0
    weights = read_preset(str(tmp_path / "config.toml"))["data"]["captions"]["weights"]
    assert weights == {"en": 1.0, "zh": 1.0, "tags.en": 1.0, "tags.zh": 1.0, "fr": 1.0, "txt": 0.5, "group": 2.0}
    assert json.loads((tmp_path / "ledger.json").read_text())["dropped"] == 0


def test_each_manifest_is_read_once_and_each_shard_opened_once(tmp_path: Path) -> None:
    """By a run in a process of its own, from the tokenizer's captions to the record of the model."""
    code = (
        "import sys, collections, train\n"
        "opened = collections.Counter()\n"
        "note = lambda event, args: event == 'open' and opened.update([str(args[0])])\n"
        "sys.addaudithook(note)\n"
        "assert train.main(sys.argv[1:]) == 0\n"
        "for name, n in opened.items():\n"
        "    print(n, name)\n"
    )
    done = launch(sys.executable, "-c", code, *SMALL, "--out", str(tmp_path), "--training.samples", "128")
    assert done.returncode == 0, done.stderr[-2000:]
    folder = ROOT / "data_pipelines/bundled/emoji/val"
    reads = sorted(x for x in done.stdout.splitlines() if "emoji/val" in x and x[0].isdigit() and "index" not in x)
    assert reads == [f"1 {folder}/00000.tar", f"1 {folder}/manifest.json"]
