"""Who takes part in a run: this process's rank, the number of ranks, its device, and which ranks share a node."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType

import torch
import torch.distributed as dist

from vlp.distributed.hub import Hub, address_towards
from vlp.distributed.lifeline import Lifeline
from vlp.distributed.parent import end_with_parent
from vlp.errors import UserError

TIMEOUT_S = 600.0
"""How long a collective waits for a rank that is alive but does not come; a dead one is noticed at once (lifeline)."""


@dataclass(frozen=True)
class World:
    """The ranks of a run. As a context manager it tells the others why this rank failed, if it does."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    device: torch.device
    nodes: tuple[int, ...] = (0,)  # the node of each rank
    lifeline: Lifeline | None = field(default=None, repr=False, compare=False)

    @staticmethod
    def alone(device: torch.device | str | None = None) -> World:
        """The world of a single process; its device is the first GPU if there is one."""
        return World(0, 1, 0, 1, torch.device(device or ("cuda:0" if torch.cuda.is_available() else "cpu")))

    def __enter__(self) -> World:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        early = isinstance(error, SystemExit) and not error.code
        fault = error is not None and not early
        together = not fault or (self.lifeline is not None and self.lifeline.closed)  # all ranks were interrupted
        if self.lifeline is not None:
            self.lifeline.close(error if fault else None, early=early)
        if dist.is_initialized() and together:
            dist.destroy_process_group()  # else gloo's threads may let go of tensors when Python is gone, and abort


@dataclass(frozen=True)
class Seat:
    """What a launcher says of one process."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    node: str
    address: str
    port: int


def seat(env: dict[str, str]) -> Seat | None:
    """What torchrun, accelerate launch or srun put into the environment; None for a plain process.

    Raises UserError where a launcher's variables are incomplete.
    """
    if "RANK" in env and "WORLD_SIZE" in env:
        size = int(env["WORLD_SIZE"])
        local = int(env.get("LOCAL_RANK", 0))
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            if size > 1 and name not in env:
                raise UserError(
                    f"WORLD_SIZE is {size} and {name} is not set; start the run with torchrun or accelerate"
                )
        node = switches(env) + env.get("GROUP_RANK", socket.gethostname())
        address, port = env.get("MASTER_ADDR", "127.0.0.1"), int(env.get("MASTER_PORT", 0))
        return Seat(int(env["RANK"]), size, local, int(env.get("LOCAL_WORLD_SIZE", size)), node, address, port)
    if int(env.get("SLURM_STEP_NUM_TASKS", 1)) > 1:  # set by srun only: a batch script itself is a plain process
        local_size = int(env.get("SLURM_STEP_TASKS_PER_NODE", "1").split("(")[0].split(",")[0])
        address = env.get("MASTER_ADDR") or first_host(env["SLURM_STEP_NODELIST"])
        port = int(env.get("MASTER_PORT", 20000 + int(env.get("SLURM_JOB_ID", 0)) % 20000))
        rank, size = int(env["SLURM_PROCID"]), int(env["SLURM_STEP_NUM_TASKS"])
        return Seat(
            rank, size, int(env["SLURM_LOCALID"]), local_size, switches(env) + env["SLURM_NODEID"], address, port
        )
    return None


def switches(env: dict[str, str]) -> str:
    """The switches above this node, topmost first, as Slurm's topology plugin names them; empty where it says none."""
    address, pattern = env.get("SLURM_TOPOLOGY_ADDR", ""), env.get("SLURM_TOPOLOGY_ADDR_PATTERN", "")
    return address.rpartition(".")[0] + "/" if pattern.startswith("switch") else ""


def numbered(names: list[str]) -> tuple[int, ...]:
    """The node of each rank: nodes under one switch have neighbouring numbers, else they count as they come.

    >>> numbered(["s1/a", "s0/b", "s1/c", "s0/b"]), numbered(["b", "a", "b"])
    ((1, 0, 2, 0), (0, 1, 0))
    """
    order = sorted(dict.fromkeys(names), key=lambda name: name.rpartition("/")[0])
    return tuple(order.index(name) for name in names)


def first_host(nodes: str) -> str:
    """The first host of a Slurm node list."""
    if not any(mark in nodes for mark in "[,"):
        return nodes
    return subprocess.run(
        ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True
    ).stdout.split()[0]


def connect(*, timeout_s: float = TIMEOUT_S, env: dict[str, str] | None = None) -> World:
    """The world the launcher describes, with its process group and its lifeline (all ranks take part).

    gloo on CPUs; nccl beside gloo on GPUs. An existing process group, accelerate's for one, is used as it is. Raises
    UserError for an incomplete launcher environment.
    """
    env = dict(os.environ) if env is None else env
    place = seat(env)
    if place is None and not dist.is_initialized():
        return World.alone()
    gpu = torch.cuda.is_available()
    local_rank = place.local_rank if place else 0
    device = torch.device("cuda", local_rank) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        assert place is not None
        if place.size == 1:
            return World.alone(device)
        meet(place, "cpu:gloo,cuda:nccl" if gpu else "gloo", env, timeout_s)
    rank, size = dist.get_rank(), dist.get_world_size()
    node, address = (place.node, place.address) if place else (socket.gethostname(), None)
    lifeline, names = tie(rank, size, node=node, address=address)
    nodes = numbered(names)
    local_size = place.local_size if place else nodes.count(nodes[rank])
    if place is not None:
        end_with_parent(os.getppid())
    return World(rank, size, local_rank, local_size, device, nodes, lifeline)


def meet(place: Seat, backend: str, env: dict[str, str], timeout_s: float) -> None:
    """Bring the process group up (all ranks take part). Raises UserError if rank 0 cannot listen where it should."""
    try:
        dist.init_process_group(
            backend,
            init_method=f"tcp://{place.address}:{place.port}" if "MASTER_ADDR" not in env else "env://",
            rank=place.rank,
            world_size=place.size,
            timeout=timedelta(seconds=timeout_s),
        )
    except dist.DistNetworkError as error:
        if place.rank or "in use" not in str(error).lower():
            raise
        raise UserError(
            f"port {place.port} of {place.address} is taken by another program, so the ranks cannot meet there; "
            "choose another one (torchrun --master-port, MASTER_PORT)"
        ) from None


def tie(rank: int, size: int, *, node: str, address: str | None) -> tuple[Lifeline, list[str]]:
    """This rank's lifeline, and the node of every rank (all ranks take part).

    Rank 0 listens on the address from which it reaches the other nodes, or on the loopback where there are none, and
    shares the run's secret in the process group.
    """
    own = address_towards(address) if address and rank else "127.0.0.1"
    seen: list[tuple[str, str]] = [("", "")] * size
    dist.all_gather_object(seen, (node, own))
    names = [name for name, _ in seen]
    hub = None
    if rank == 0:
        away = [where for name, where in seen if name != node]
        hub = Hub(address_towards(away[0]) if away else "127.0.0.1", secrets.token_hex(16))
    offers: list[tuple[str, int, str]] = [("", 0, "")] * size
    dist.all_gather_object(offers, (hub.host, hub.port, hub.secret) if hub else ("", 0, ""))
    host, port, secret = offers[0]
    return Lifeline.tie(rank, size, host=host, port=port, secret=secret, hub=hub), names
