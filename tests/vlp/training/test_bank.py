"""The bank keeps the last pairs of all ranks, and hands them over on any number of ranks."""

import bank_cases as cases
import gloo_ranks
import pytest
import torch

from vlp.distributed.world import World
from vlp.errors import UserError
from vlp.losses import Bank
from vlp.training import bank as module

ALONE = World.alone()


def test_the_last_pairs_are_kept_in_the_order_of_the_run():
    bank = cases.bank_of(ALONE, "auto")
    for steps in range(9):
        kept = cases.fill(bank, ALONE, () if steps == 0 else (steps - 1,))
        assert len(kept.bank_image) == min(steps, cases.SLOTS) * cases.BATCH  # the valid length, while it fills
        if steps:
            assert cases.same(bank, range(steps))
            assert torch.equal(kept.bank_image, bank.state_dict()["image"])
            assert torch.equal(kept.bank_text, -kept.bank_image)


def test_a_refused_step_leaves_no_trace():
    bank = cases.bank_of(ALONE, "auto")
    cases.fill(bank, ALONE, range(4))  # whose last batch is not taken
    assert cases.same(bank, range(4))


def test_captions_of_a_picture_take_turns():
    bank = cases.bank_of(ALONE, "auto")
    cases.fill(bank, ALONE, range(5), captions=2)
    image, text = cases.expected(range(5), captions=2)
    assert torch.equal(bank.state_dict()["image"], image)
    assert torch.equal(bank.state_dict()["text"], text)


def test_it_goes_on_from_its_state_and_back_to_it():
    bank, other = cases.bank_of(ALONE, "auto"), cases.bank_of(ALONE, "auto")
    cases.fill(bank, ALONE, range(2))
    early = {name: tensor.clone() for name, tensor in bank.state_dict().items()}
    cases.fill(bank, ALONE, range(2, 5))
    other.load_state_dict(early)
    cases.fill(other, ALONE, range(2, 5))
    for name, tensor in bank.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
    bank.load_state_dict(early)
    assert cases.same(bank, range(2))


def test_what_a_teacher_says_is_kept_where_the_objective_asks_for_it():
    from dataclasses import replace

    objective = cases.Asking()
    bank = module.PairBank(cases.sharded(objective, ALONE), Bank(24, keys="guide"), batch=cases.BATCH)
    e = cases.given(0, ALONE)
    with pytest.raises(UserError, match="has no teacher"):
        bank.beside(cases.batch(e), e)
    guided = replace(e, guide_image=e.image + 1, guide_text=e.text + 1)
    bank.beside(cases.batch(e), guided)
    bank.taken()
    assert torch.equal(bank.state_dict()["text"], e.text + 1)


def test_a_length_that_is_no_multiple_and_one_beyond_memory_are_refused(monkeypatch):
    objective = cases.Asking(pairs=30)
    with pytest.raises(UserError, match=r"loss.queue is 30, .* multiple of training.batch, 12; set it to 36"):
        module.PairBank(cases.sharded(objective, ALONE), objective.bank, batch=cases.BATCH)
    monkeypatch.setattr(module, "available", lambda device, ranks: 64 * 4 * cases.WIDTH * 2)  # bytes of 64 pairs
    with pytest.raises(UserError, match=r"loss.queue is 36, .* are free; set it to at most 24"):
        module.PairBank(cases.sharded(cases.Asking(), ALONE), Bank(36), batch=cases.BATCH, width=cases.WIDTH)
    bank, e = cases.bank_of(ALONE, "auto"), cases.given(0, ALONE)
    with pytest.raises(UserError, match=r"loss.queue is 36, .* are free; set it to at most 24"):
        bank.beside(cases.batch(e), e)


@pytest.mark.slow
def test_any_number_of_ranks_keeps_the_same_pairs_and_goes_on_from_those_of_another(tmp_path):
    """All layouts of two, four and three ranks, from the states of each other; bytes are those of the plan."""
    bank = cases.bank_of(ALONE, "auto")
    states = []
    for steps in (1, 5):
        cases.fill(bank, ALONE, range(len(states) and 1, steps))
        states.append((cases.as_lists(bank), steps))
    for size in (2, 4, 3):
        answers = gloo_ranks.run(size, cases.every_layout, states, folder=tmp_path)
        assert not any(wrong for wrong, _ in answers), answers[0][0]
        states.append((answers[0][1], 7))
