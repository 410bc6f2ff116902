"""A real Slurm on this machine: munged, slurmctld and two slurmds of their own, in a folder of a test."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = ("munged", "slurmctld", "slurmd", "slurmstepd", "sbatch", "srun", "scontrol", "squeue", "scancel")
SBIN = ":/usr/local/sbin:/usr/sbin:/sbin"
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=2,batch_sched_delay=1
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
{plugins}
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports[1]}-{ports[2]}] CPUs=2 RealMemory=4000
PartitionName=low Nodes=n[1-2] PriorityTier=1 GraceTime=60 Default=YES MaxTime=60
PartitionName=high Nodes=n[1-2] PriorityTier=10 PreemptMode=OFF MaxTime=60
"""


@dataclass(frozen=True)
class Slurm:
    """A cluster that runs."""

    folder: Path
    environment: dict[str, str]

    def call(self, *command: object, **variables: str) -> str:
        """What a command of Slurm's prints; it has to succeed."""
        words = [str(word) for word in command]
        done = subprocess.run(
            words,
            check=False,
            env=self.environment | variables,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout.strip()

    def submit(self, *command: object, **variables: str) -> str:
        """The number of a job that `sbatch` takes."""
        return self.call("sbatch", "--parsable", *command, **variables)

    def state(self, job: str) -> dict[str, str]:
        """What Slurm says of a job."""
        words = self.call("scontrol", "show", "job", "-o", job).splitlines()[0].split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, what: str, holds: Callable[[], bool], seconds: float = 120) -> None:
        """Wait until something holds; the logs are shown if it never does."""
        end = time.monotonic() + seconds
        while not holds():
            logs = "\n".join(f"{p}:\n{p.read_text(errors='replace')[-3000:]}" for p in self.folder.glob("**/*.out"))
            assert time.monotonic() < end, f"{what}: {self.call('squeue')}\n{logs}"
            time.sleep(0.3)

    def wait_for_end(self, job: str, state: str = "COMPLETED", seconds: float = 120) -> None:
        """Wait until a job has ended, in `state`."""
        ends = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        self.wait(f"job {job}", lambda: self.state(job)["JobState"] in ends, seconds)
        logs = "\n".join(p.read_text(errors="replace")[-3000:] for p in self.folder.glob("**/*.out"))
        assert self.state(job)["JobState"] == state, logs


@contextmanager
def slurm(folder: Path) -> Iterator[Slurm]:
    """A cluster of two nodes of two cores; skips where Slurm is not installed."""
    path = os.environ["PATH"] + SBIN
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not installed: apt-get install slurm-wlm munge")
    program = {name: str(shutil.which(name, path=path)) for name in PROGRAMS}
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    for private in (folder, key):
        private.chmod(0o700 if private.is_dir() else 0o400)
    plugins = sorted(Path(program["slurmctld"]).parents[1].glob("lib/*/slurm-wlm"))  # Debian's, wherever it lies
    text = CONFIGURATION.format(
        host=socket.gethostname().split(".")[0],
        user=os.environ.get("USER") or "root",
        folder=folder,
        ports=ports(),
        plugins=f"PluginDir={plugins[0]}" if plugins else "",
    )
    (folder / "slurm.conf").write_text(text)
    (folder / "state").mkdir()
    vlp = folder / "vlp"
    vlp.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m vlp.cli "$@"\n')
    vlp.chmod(0o755)
    environment = {**os.environ, "PATH": path, "SLURM_CONF": str(folder / "slurm.conf"), "PYTHONPATH": str(ROOT)}
    environment |= {"VLP": str(vlp), "OMP_NUM_THREADS": "1"}
    munge = [program["munged"], "--foreground", "--force", f"--socket={folder}/munge.socket", f"--key-file={key}"]
    munge += [f"--{name}-file={folder}/munge.{name}" for name in ("pid", "log", "seed")]
    daemons = [munge, [program["slurmctld"], "-D"]]
    daemons += [[program["slurmd"], "-D", "-N", node, "-d", program["slurmstepd"]] for node in ("n1", "n2")]
    running: list[subprocess.Popen[bytes]] = []
    try:
        for command in daemons:
            log = (folder / f"{len(running)}.log").open("wb")
            running.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True))
            time.sleep(1)
        cluster = Slurm(folder, environment)
        idle = lambda: cluster.call("sinfo", "-h", "-p", "low", "-t", "idle", "-o", "%D") == "2"  # noqa: E731
        cluster.wait("two idle nodes", idle, 60)
        yield cluster
        cluster.call("scancel", "--full", "--state", "RUNNING") if cluster.call("squeue", "-h") else None
    finally:
        for process in reversed(running):
            process.send_signal(signal.SIGTERM)
        for process in reversed(running):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def ports() -> tuple[int, int, int]:
    """Three free ports that no outgoing connection takes meanwhile: the system gives those from 32768 on."""
    while True:
        first = 16_000 + secrets.randbelow(14_000)
        with socket.socket() as one, socket.socket() as two, socket.socket() as three:
            try:
                for place, tried in enumerate((one, two, three)):
                    tried.bind(("127.0.0.1", first + place))
            except OSError:
                continue
            return first, first + 1, first + 2
