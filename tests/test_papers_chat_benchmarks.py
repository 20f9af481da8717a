"""The chat benchmarks of any policies: what a perfect, an equal and a silent one score, and scores that are paired as they should be."""

import numpy as np
import pytest

from repro.core.artifacts import Artifact
from repro.papers import benchmark_study, chat_benchmarks
from repro.papers.chat_benchmarks import BOTH, FIRST, SECOND, Said, Scores
from repro.papers.online_arms import ITERATIVE, OFFLINE, SFT
from repro.world import benchmarks, tasks

ITEMS = 40


def spoken(faults, seed=0):
    """What somebody says who makes these faults in every answer."""
    rng = np.random.default_rng(seed)

    def answered(asked):
        return asked, [tasks.respond(task, rng, faults) for task in asked]

    first = answered(benchmarks.two_turn(ITEMS, seed=0))
    turns = first, answered(benchmarks.second_turns(*first, seed=0))
    return Said(answered(benchmarks.chat(ITEMS, seed=0)), answered(benchmarks.hard(ITEMS, seed=0)), turns)


@pytest.fixture(scope="module")
def voices():
    return {"clean": [spoken([])], "wrong": [spoken(["wrong"])], "rude": [spoken(["rude", "curt"])]}


def test_who_answers_as_the_baseline_does_ties_and_who_errs_loses(voices):
    found = chat_benchmarks.chat_scores(voices, voices["clean"][0], [0])
    for column in ("chat, win rate", "chat, length-controlled", "hard, win rate", "hard, length-controlled"):
        assert found.interval(column, "clean").value == 50
        for worse in ("wrong", "rude"):
            assert found.difference(column, "clean", worse).low > 0
    own = voices["wrong"][0].hard[1]
    assert found.interval("hard, characters", "wrong").value == pytest.approx(np.mean([len(text) for text in own]))


def test_two_turns_are_rated_from_one_to_ten_and_average(voices):
    single = Said(voices["clean"][0].chat, voices["clean"][0].hard)
    found = chat_benchmarks.two_turn_scores(voices | {"single": [single]}, [0])
    both, first, second = (found.values[column]["wrong"] for column in (BOTH, FIRST, SECOND))
    assert both == pytest.approx((first + second) / 2) and both.min() >= 1 and both.max() <= 10
    assert found.difference(BOTH, "clean", "wrong").low > 0
    assert "single" not in found.values[BOTH]


def test_differences_are_paired_and_means_go_over_seeds_and_prompts():
    """Two policies a point apart on every prompt differ by a point, without error, however far prompts lie apart."""
    hard = np.array([[0.0, 100.0, 50.0], [20.0, 80.0, 50.0]])
    found = Scores({"column": {"a": hard + 1, "b": hard}}, (0, 1))
    change = found.difference("column", "a", "b")
    assert (change.value, change.low, change.high) == (1, 1, 1)
    assert found.interval("column", "a").value == 51 and found.interval("column", "a").half_width > 5
    rows = found.records("world.chat", {"column": "title"}, ["b"])
    assert [(row.row, row.column, row.value, row.seed) for row in rows] == [("b", "title", 50, "0,1")]


def test_the_claims_meet_the_inventorys_terms():
    from repro.core import inventory

    matrix = {name: np.zeros((1, 4)) + k for k, name in enumerate((SFT, OFFLINE, ITERATIVE, benchmark_study.LONGER))}
    names = [
        f"{kind}, {column}" for kind in ("chat", "hard") for column in ("win rate", "length-controlled", "characters")
    ]
    chat = Scores(dict.fromkeys(names, matrix), (0,))
    sets = Scores(dict.fromkeys(benchmark_study.academic.WORLD, matrix), (0,))
    found = benchmark_study.Study(chat, Scores({BOTH: matrix}, (0,)), sets, ITEMS, {})
    for id, made in (("p2.c5", benchmark_study.chat_evidence), ("p2.c6", benchmark_study.academic_evidence)):
        assert set(made(found)) == set(inventory.claims()[id]["courts"]["world"])
    assert all(value.value == 1 for value in benchmark_study.chat_evidence(found).values())  # each beats the one before
    assert all(value.value == 2 for value in benchmark_study.academic_evidence(found).values())
    assert {row.column for row in benchmark_study.chat_records(found)} == set(
        next(iter(inventory.published("p2.table2").values()))
    )
    assert set(benchmark_study.TITLES.values()) == set(next(iter(inventory.published("p2.table3").values())))


def test_a_policy_that_seeds_share_is_examined_once(monkeypatch):
    asked = []

    def run_all(calls, workers):
        asked.extend(calls)
        raise RuntimeError("enough")

    monkeypatch.setattr(chat_benchmarks, "run_all", run_all)
    monkeypatch.setattr(chat_benchmarks, "_examination", lambda model, items, sets: model.digest)
    one, two = (Artifact(None, "step", name, name) for name in ("one", "two"))
    with pytest.raises(RuntimeError, match="enough"):
        chat_benchmarks.academic_scores({"shared": [one, one], "own": [one, two]}, 5, 1, [0, 1])
    assert asked == ["one", "two"]
