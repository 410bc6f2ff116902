from __future__ import annotations

import json

import pytest

from data_pipelines.ledger import DropBudgetExceeded, Ledger


def test_the_budget_stops_with_the_table() -> None:
    ledger = Ledger(delivered=980)
    ledger.drop("corrupt tar", "00003.tar", 15)
    ledger.drop("undecodable picture", "00001.tar", 5)
    ledger.check(0.02, patience=1000)
    ledger.check(0.01, patience=1001)
    with pytest.raises(DropBudgetExceeded, match=r"2.00% of the samples were lost(.|\n)*15  corrupt tar(.|\n)*00003"):
        ledger.check(0.01, patience=1000)


def test_filtered_samples_are_not_held_to_the_budget_but_all_of_them_are_told() -> None:
    ledger = Ledger(delivered=10)
    ledger.drop("filtered", "a.tar", 5000)
    ledger.check(0.01, patience=100)
    ledger.delivered = 0
    with pytest.raises(DropBudgetExceeded, match="nothing at all was delivered"):
        ledger.check(0.01, patience=1000)


def test_unknown_reasons_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown reason"):
        Ledger().drop("bad luck", "a.tar")


def test_state_is_json_and_merges() -> None:
    one, two = Ledger(delivered=3), Ledger(delivered=4, restarts=1)
    one.drop("filtered", "a")
    two.drop("filtered", "a", 2)
    one.merge(Ledger.of(json.loads(json.dumps(two.state()))))
    assert (one.delivered, one.restarts, one.by_reason()) == (7, 1, {"filtered": 3})
