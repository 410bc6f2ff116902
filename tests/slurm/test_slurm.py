"""The sbatch files on a real Slurm of two nodes: preempted and requeued, an array of parts, a sweep."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from data_pipelines.shards.shard_set import ShardSet
from eval.embeddings.store import EmbeddingStore
from tests.slurm.cluster import ROOT, Slurm, slurm
from vlp.files import sha256

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
FILES = ROOT / "slurm"
PRESET = """
[data]
shards = "bundled:emoji/train"
captions.weights = { en = 1.0, zh = 1.0 }

[model]
name = "two_towers"
width = 32
image_size = 32

[model.image]
name = "resnet"
widths = [8, 16]
depths = [1, 1]

[model.text]
name = "bag"
hidden = 32

[model.bpe]
vocab = 500

[training]
samples = 25_600
batch = 128
log_every = 1
checkpoint_every = 3.0
tensorboard = false

[training.optimizer]
name = "adamw"
lr = 1e-3
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with slurm(tmp_path_factory.mktemp("slurm")) as running:
        (running.folder / "tiny.toml").write_text(PRESET)
        yield running


def steps(run: Path) -> list[dict[str, float]]:
    rows = run / "metrics.jsonl"
    return [json.loads(line) for line in rows.read_text().splitlines()] if rows.is_file() else []


def train(cluster: Slurm, name: str, *options: object, **variables: str) -> str:
    place = ("--nodes", 2, "--ntasks-per-node", 1, "--cpus-per-task", 1, "--job-name", name)
    return cluster.submit(*place, *options, FILES / "train.sbatch", "tiny.toml", **variables)


def test_a_preempted_run_is_requeued_and_ends_with_the_weights_of_an_undisturbed_one(cluster: Slurm) -> None:
    undisturbed = train(cluster, "undisturbed")
    cluster.wait_for_end(undisturbed, seconds=250)
    job, run = train(cluster, "preempted"), cluster.folder / "runs" / "preempted"
    cluster.wait("some steps", lambda: len(steps(run)) > 60, 120)
    urgent = cluster.submit("--partition", "high", "--nodes", 2, "--exclusive", "--wrap", "srun sleep 1")
    cluster.wait_for_end(urgent)
    stopped = len(steps(run))
    assert stopped < 200, "it was preempted in the middle"
    cluster.wait_for_end(job, seconds=300)
    assert cluster.state(job)["Restarts"] == "1"
    assert [row["step"] for row in steps(run)] == list(range(1, 201))
    first, second = (
        cluster.folder / "runs" / name / "model" / "model.safetensors" for name in ("undisturbed", "preempted")
    )
    assert sha256(first) == sha256(second)
    losses = [[row["loss"] for row in steps(cluster.folder / "runs" / n)] for n in ("undisturbed", "preempted")]
    assert losses[0] == losses[1]
    assert "the job goes back into the queue" in next(cluster.folder.glob("preempted-*.out")).read_text()
    logs = [run / "logs" / f"rank-{rank}.log" for rank in (0, 1)]
    assert all("interrupted after step" in log.read_text() for log in logs[:1])
    assert all(log.is_file() for log in logs)


def test_a_warning_requeues_and_scancel_ends(cluster: Slurm) -> None:
    """USR1 as Slurm sends it before the limit, to the steps of the job; the second time the job is cancelled."""
    job, run = train(cluster, "warned"), cluster.folder / "runs" / "warned"
    cluster.wait("some steps", lambda: len(steps(run)) > 5)
    cluster.call("scancel", "--signal", "USR1", job)
    cluster.wait("the queue", lambda: cluster.state(job)["JobState"] == "PENDING")
    assert cluster.state(job)["Restarts"] == "1"
    cluster.call("scancel", job)
    other, run = train(cluster, "cancelled"), cluster.folder / "runs" / "cancelled"
    cluster.wait("some steps", lambda: len(steps(run)) > 5)
    cluster.call("scancel", other)
    cluster.wait_for_end(other, "CANCELLED")
    cluster.wait("both nodes", lambda: cluster.call("sinfo", "-h", "-p", "low", "-t", "idle", "-o", "%D") == "2")
    assert cluster.state(other)["JobState"] == "CANCELLED"


def test_a_sweep_and_its_missing_line(cluster: Slurm) -> None:
    (cluster.folder / "sweep.txt").write_text(
        "--training.samples 1280 --training.optimizer.lr 1e-3\n--training.samples 2560\n"
    )
    job = train(cluster, "sweep", "--array", "0-2", "--output", "sweep-%a.out")
    for task, state in ((0, "COMPLETED"), (1, "COMPLETED"), (2, "FAILED")):
        cluster.wait_for_end(f"{job}_{task}", state)
    runs = cluster.folder / "runs" / "sweep"
    assert [len(steps(runs / task)) for task in "01"] == [10, 20]
    assert "line 3 of sweep.txt has no flags" in (cluster.folder / "sweep-2.out").read_text()


def test_shards_of_an_array_are_merged_embedded_and_indexed(cluster: Slurm) -> None:
    pictures = cluster.folder / "pictures"
    pictures.mkdir()
    for i in range(10):
        Image.new("RGB", (24, 16), (i * 10, 90, 200)).save(pictures / f"p{i}.png")
        (pictures / f"p{i}.txt").write_text(f"thing {i}")
    array = cluster.submit("--array", "1-3", FILES / "shards.sbatch", pictures, "shards")
    after = ("--dependency", f"afterok:{array}")
    merge = cluster.submit(*after, "--job-name", "merge", "--wrap", f"{cluster.folder}/vlp shards merge shards")
    model = ("ViT-B-32", "--random-weights")
    embed = cluster.submit(
        *("--dependency", f"afterok:{merge}", "--array", "0-1", "--ntasks", 2),
        FILES / "embed.sbatch",
        model[0],
        "shards",
        "embedded",
        model[1],
    )
    index = cluster.submit(
        "--dependency", f"afterok:{embed}", FILES / "index.sbatch", model[0], "embedded", "index", model[1]
    )
    cluster.wait_for_end(index, seconds=240)
    shards = ShardSet.open(str(cluster.folder / "shards"))
    assert sorted(shards.counts) == [3, 3, 4]
    assert (cluster.folder / "index" / "index.toml").is_file()
    assert EmbeddingStore.open(cluster.folder / "embedded").count() == 10
    ranks = [path.read_text() for path in cluster.folder.glob("embed-*.out")]
    assert len(ranks) == 2, "a task of the array each"
    assert sum(int(n) for text in ranks for n in re.findall(r"embedded: (\d+) parts written", text)) == 3
    job = cluster.submit("--array", "0-3", FILES / "shards.sbatch", pictures, "others", "--output", "x")
    cluster.wait_for_end(f"{job}_0", "FAILED")
    assert not (cluster.folder / "others").exists()
