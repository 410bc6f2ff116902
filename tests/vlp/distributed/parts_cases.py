"""What ranks do in test_tensor_parts: write a checkpoint of a small model, sharded or not, and read one."""

from types import SimpleNamespace

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from vlp.distributed.background import BackgroundGroup
from vlp.training.average import averaged
from vlp.training.checkpoints.contents import Contents
from vlp.training.checkpoints.folder import Checkpoints, Keep
from vlp.training.checkpoints.place import Folder
from vlp.training.guard import Guard
from vlp.training.scaler import Scaler
from vlp.training.state import Tally


def contents(world, kind, seed):
    """The moving parts of a run whose sizes no number of ranks divides, after a step: optimizers have their state."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(53, 71), nn.BatchNorm1d(71), nn.Linear(71, 3, bias=False))
    module.register_parameter("scale", nn.Parameter(torch.tensor(2.0)))
    average = averaged(module, 0.9)
    if kind == "fsdp2":
        mesh = init_device_mesh("cpu", (world.size,))
        for model in (module, average):
            alone = {p for name, p in model.named_parameters() if name.endswith("scale")}
            fully_shard(model, mesh=mesh, ignored_params=alone)
    first, rest = [p for p in module.parameters() if p.ndim > 1], [p for p in module.parameters() if p.ndim < 2]
    optimizers = (torch.optim.AdamW(first, lr=0.1), torch.optim.SGD(rest, lr=0.1, momentum=0.9))
    for p in module.parameters():
        p.grad = torch.full_like(p, 0.01) * p
    for optimizer in optimizers:
        optimizer.step()
    return Contents(
        SimpleNamespace(
            module=module,
            average=average,
            optimizers=optimizers,
            watch=Guard().watch(),
            tally=Tally(3),
            scaler=Scaler.of(None),
            companions=(),
        )
    )


def whole(world, tensors):
    """On rank 0 by name, as arrays, whatever their parts were (all ranks take part)."""
    every = {name: (t.full_tensor() if hasattr(t, "full_tensor") else t).numpy() for name, t in tensors.items()}
    return {} if world.rank else every


def opened(world, folder):
    return Checkpoints(Folder(folder), Keep(), BackgroundGroup.open(world))


def write(world, folder, kind):
    run = contents(world, kind, seed=1)
    with opened(world, folder) as checkpoints:
        checkpoints.write(1, run.tensors(), run.plain(["here"]), identity={"run": 1})
    return whole(world, run.tensors())


def read(world, folder, kind):
    run = contents(world, kind, seed=2)
    saved = opened(world, folder).read({"run": 1}, run.room)
    assert run.take(saved.tensors, saved.plain) == ["here"]
    assert run.state.tally == Tally(3)
    return whole(world, run.tensors())


def read_where_one_rank_sees_damage(world, folder, kind):
    """Rank 1 reads another file than rank 0, and it is cut."""
    if world.rank == 1:
        place = Folder(folder)
        newest = max(place.names())
        whole_file = folder / newest / "rank-00001.safetensors"
        whole_file.write_bytes(whole_file.read_bytes()[:100])
    run = contents(world, kind, seed=2)
    saved = opened(world, folder).read({"run": 1}, run.room)
    return saved.name
