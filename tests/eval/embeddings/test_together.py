"""Ranks that evaluate together: each embeds a part, and the numbers are those of one process, to the bit."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from data_pipelines.sample import Sample
from eval.embeddings.together import Ranks
from eval.tasks.retrieval import Retrieval
from eval.tasks.zero_shot import ZeroShot
from eval.while_training import Validation
from vlp.models.release import Release

PROGRAM = """
import json, sys
from eval.embeddings import split
from eval.embeddings.together import Ranks, SharedRelease
from eval.tasks.retrieval import Retrieval
from eval.tasks.zero_shot import ZeroShot
from eval.while_training import Validation
from vlp.distributed.collectives import gather_objects
from vlp.distributed.world import connect
from vlp.models import release as releases

def main(folder, data, out):
    with connect() as world:
        ranks = Ranks(world.rank, world.size, gather_objects)
        own = releases.load(folder)
        shared = SharedRelease(own.encoder, own.tokenizer, own.transform, "", "", ranks)
        tasks = {"retrieval": Retrieval(ks=(1, 3)), "shapes": ZeroShot(label="subgroup")}
        validation = Validation(tasks, data=(data,))
        call = validation.evaluations(lambda _: shared, transform=own.transform, record=None, ranks=ranks)["broken"]
        pictures = []
        own.encoder.image_tower.register_forward_hook(lambda _, given, out: pictures.append(len(given[0])))
        numbers = [call(own.encoder), call(own.encoder)]
        lost = call.pictures.split.skipped.by_reason()
        kept = sum(bool(s.image) or p.pixels is not None for p in call.pictures.parts for s in p.samples)
        with open(f"{out}/{world.rank}.json", "w") as file:
            json.dump({"numbers": numbers, "lost": lost, "pictures": pictures, "kept": kept}, file)

main(*sys.argv[1:])
"""


@pytest.mark.slow
def test_three_ranks_give_the_numbers_of_one(
    model_folder: Path, release: Release, samples: list[Sample], write: Callable[..., Path], tmp_path: Path
) -> None:
    some = [
        replace(sample, image=b"\x89PNG no picture") if i in (2, 21) else sample for i, sample in enumerate(samples)
    ]
    data = write(tmp_path / "broken", some, per_shard=5)  # five parts for three ranks
    (tmp_path / "program.py").write_text(PROGRAM)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    arguments = [str(tmp_path / "program.py"), str(model_folder), str(data), str(tmp_path)]
    subprocess.run([*launch, *arguments], check=True, timeout=240, capture_output=True)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)]
    validation = Validation(
        {"retrieval": Retrieval(ks=(1, 3)), "shapes": ZeroShot(label="subgroup")}, data=(str(data),)
    )
    one = validation.evaluations(lambda _: release, transform=release.transform, record=None)["broken"]
    expected = one(release.encoder)
    for rank in ranks:
        assert rank["numbers"] == [expected, expected]
        assert rank["lost"] == {"undecodable picture": 2}
    assert [rank["kept"] for rank in ranks] == [4 + 5, 5 + 3, 5 + 3]  # the last part is with two, for equal turns
    assert sum(sum(rank["pictures"]) for rank in ranks) == 2 * (22 + 3)


def test_each_part_is_computed_by_one_rank_and_all_compute_equally_often() -> None:
    parts, computed = list(range(7)), []

    def gather(_: object) -> list[list[int]]:
        return [[10 * i for i in range(rank, 9, 3)] for rank in range(3)]

    assert Ranks(1, 3, gather).share(parts, lambda part: computed.append(part) or 10 * part) == [10 * p for p in parts]
    assert computed == [1, 4, 6]
