"""Verdicts follow from intervals and rules alone; a failed claim is shown as failed."""

import math

import pytest

from repro.core import inventory, records
from repro.core.errors import SettingsError
from repro.core.records import record
from repro.core.statistics import Interval
from repro.report import ledger


@pytest.mark.parametrize(
    ("rule", "low", "high", "verdict"),
    [
        ("above 0", 0.1, 0.2, "holds"),
        ("above 0", -0.2, -0.1, "fails"),
        ("above 0", -0.1, 0.1, "inconclusive"),
        ("above 0", 0.0, 0.2, "inconclusive"),
        ("above 0", -0.2, 0.0, "fails"),
        ("above 0", 0.0, 0.0, "fails"),
        ("below -2", -4, -3, "holds"),
        ("above -2", -1, 3, "holds"),
        ("at most 0", -1, 0, "holds"),
        ("at most 0", 0.1, 0.2, "fails"),
        ("between 5 and 15", 6, 14, "holds"),
        ("between 5 and 15", 14, 16, "inconclusive"),
        ("between 5 and 15", 16, 20, "fails"),
        ("above 0", math.nan, math.nan, "inconclusive"),
    ],
)
def test_a_term_is_judged_by_its_interval(rule, low, high, verdict):
    value = (low + high) / 2
    assert ledger.parse(rule).judge(Interval(value, low, high, 10)) == verdict


def evidence(**terms):
    return [
        record("p2.c4", term, "real text", Interval(v, v - 0.01, v + 0.01, 805), seeds=[0, 1])
        for term, v in terms.items()
    ]


@pytest.mark.parametrize(
    ("terms", "verdict"),
    [
        ({"more_biased": 0.19, "less_biased": 0.06, "difference": 0.13}, "holds"),
        ({"more_biased": 0.19, "less_biased": 0.06, "difference": -0.13}, "fails"),
        ({"more_biased": 0.19, "less_biased": 0.001, "difference": 0.13}, "inconclusive"),
        ({"more_biased": 0.19, "less_biased": 0.001, "difference": -0.13}, "fails"),
        ({"more_biased": 0.19, "difference": -0.13}, "not run"),
        ({}, "not run"),
    ],
)
def test_a_claim_is_judged_by_its_terms(terms, verdict):
    assert ledger.judge("p2.c4", "real text", evidence(**terms)).verdict == verdict


def test_evidence_for_no_term_or_court_is_refused():
    with pytest.raises(SettingsError, match="no term surprise"):
        ledger.judge("p2.c4", "real text", evidence(surprise=1.0))
    with pytest.raises(SettingsError, match="no rule for"):
        ledger.judge("p2.c5", "real text", [])


def test_one_prompt_alone_decides_nothing():
    rows = [record("p1.c6", "largest_excess", "real text", Interval(-0.1, -0.1, -0.1, n)) for n in (1, 2)]
    assert [ledger.judge("p1.c6", "real text", [row]).verdict for row in rows] == ["inconclusive", "holds"]


def test_a_record_of_a_term_that_the_rule_no_longer_has_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_RUNS", str(tmp_path))
    records.save([record("p2.c4", "old_term", "real text", 1.0)], "chapter", "smoke", [0])
    assert all(card.verdict == "not run" for card in ledger.scorecard("smoke"))


def test_every_claim_has_a_rule_that_parses_and_a_paper_number():
    assert len(inventory.claims()) == 29
    for claim, about in inventory.claims().items():
        assert about["paper"] and about["courts"], claim
        for terms in about["courts"].values():
            assert terms and all(ledger.parse(rule) for rule in terms.values())


def test_what_is_no_rule_is_refused():
    with pytest.raises(SettingsError, match="is no rule"):
        ledger.parse("roughly 0")


def test_the_scorecard_lists_every_claim_even_when_nothing_ran(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_RUNS", str(tmp_path))
    cards = ledger.scorecard("smoke")
    assert {card.claim for card in cards} == set(inventory.claims())
    assert ledger.tally(cards) == {"holds": 0, "fails": 0, "inconclusive": 0, "not run": len(cards)}
