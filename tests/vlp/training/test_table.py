"""The table of numbers of samples: on any number of ranks what a dictionary is, and in a checkpoint whole."""

import gloo_ranks
import pytest
import table_cases as cases
import torch

from vlp.batch import Batch
from vlp.distributed.sharded import sharded
from vlp.distributed.world import World
from vlp.errors import UserError
from vlp.losses.alip import ALIP
from vlp.losses.history import History
from vlp.losses.infonce import InfoNCE
from vlp.training.table import Kept

STEPS = list(cases.batches(2))


def by_hand(batches, start=()):
    """(rows read at each step, the whole table), by a dictionary: of a sample's occurrences the last one counts."""
    kept, read = dict(enumerate(torch.tensor(start))), []
    for numbers, values in batches:
        read.append(torch.stack([kept.get(int(n), cases.FIRST) for n in numbers]).tolist())
        kept |= {int(n): row for n, row in zip(numbers, values, strict=True)}
    return read, torch.stack([kept.get(n, cases.FIRST) for n in range(max(kept) + 1)]).tolist()


@pytest.mark.parametrize("size", [1, 2, 3])
def test_any_number_of_ranks_is_a_dictionary_and_goes_on_from_any_other(size, tmp_path):
    read, whole = by_hand(STEPS)
    half = by_hand(STEPS[:2])[1]
    assert any(len(numbers.unique()) < len(numbers) for numbers, _ in STEPS)
    for rank, (begun, gone_on) in enumerate(gloo_ranks.run(size, cases.everything, half, folder=tmp_path)):
        mine = slice(12 // size * rank, 12 // size * (rank + 1))
        assert begun[0] == [rows[mine] for rows in read]
        assert gone_on[0] == [rows[mine] for rows in read[2:]]
        assert begun[1] == gone_on[1] == whole
        assert begun[2] == begun[3]
        assert (begun[2] > 0) == (size > 1)


def test_a_refused_step_keeps_nothing_and_captions_are_averaged(tmp_path):
    for state in gloo_ranks.run(2, cases.companion, folder=tmp_path):
        assert state["sample.history_loss"] == [2, 0, 3, 0, 0, 0, 0, 6]  # sample 7: of rank 1, which comes last
        assert state["sample.history_times"] == [0] * 8


def test_a_batch_that_does_not_number_its_samples_is_refused():
    batch = Batch(torch.zeros(2), torch.zeros(2), ("a", "b"))
    (kept,) = Kept.of(sharded(History(), World.alone("cpu")))
    with pytest.raises(UserError, match=r"loss History keeps numbers of each sample, but the data do not number"):
        kept.beside(batch, None)
    (kept,) = Kept.of(sharded(ALIP(), World.alone("cpu")))
    kept.beside(batch, None)
    assert Kept.of(sharded(InfoNCE(), World.alone("cpu"))) == ()
