"""RM-Step3, RM-Step4 and what lies between them: training sets by hand, an annotator found on the map again, and a run at smoke."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from repro.core import artifacts, inventory
from repro.core.errors import DataError
from repro.core.settings import load
from repro.data import miniature as sets
from repro.models.scratch import scratch
from repro.papers import filtered_models, label_map, miniature
from repro.papers.collection import Collection
from repro.papers.collection_rows import Graded, Tally, swapped
from repro.papers.filtered_models import (
    ARMS,
    CONTRASTS,
    HALF,
    HALF_HUMAN,
    LENGTH,
    LONGER,
    MAIN,
    ORDER,
    OVERALL,
    RANDOM,
    SAME_STEPS,
    SELECTED,
    SHUFFLED,
    STEP3,
    STEP4,
    TESTS,
    UNFILTERED,
    Study,
)
from repro.papers.label_map import HOLDS, JUDGE, PEOPLE, REVERSES, TIES, LabelMap
from repro.world import annotators
from repro.world.task import TEST, Task

TINY = {"world.workers": 1, "world.max_new_tokens": 8, "p1_02_reward_models.test_pairs": 3}


def reviewed(pair, labels):
    return replace(pair, extras={**pair.extras, "labels": labels, "kept": labels[0] == labels[1]})


@pytest.fixture(scope="module")
def collected():
    """Twenty-four candidates; twelve pass the filter, on eight of these two people agree, on two against the judge."""
    candidates = sets.pairs(("UltraFeedback",), 24, 0)
    said = [[1.0, 1.0]] * 6 + [[0.0, 0.0]] * 2 + [[1.0, 0.0], [0.0, 1.0]] * 2
    filtered = [reviewed(pair, labels) for pair, labels in zip(candidates, said, strict=False)]
    labelled = [pair if pair.extras["labels"][0] else swapped(pair) for pair in filtered if pair.extras["kept"]]
    tallies = [Tally(step, 24, 24, {}, {}) for step in "123"] + [Tally("4", 12, 8, {"doubt": 4}, {"labels": 20})]
    return Collection(candidates, filtered, labelled, tallies, [], [], [], Graded.of(candidates))


@pytest.fixture
def random_policy(tmp_path, monkeypatch):
    """Policies of random weights in place of trained ones."""
    monkeypatch.setenv("REPRO_RUNS", str(tmp_path))

    def policy(role, settings):
        texts = artifacts.external(sets.lexicon() / sets.TEXTS)
        place = ("small", "large").index(role)
        return artifacts.run(scratch, settings={"name": settings[role]}, inputs={"texts": texts}, seed=place)

    monkeypatch.setattr(sets, "LEXICON", 300)
    for module in (filtered_models, label_map, miniature):
        monkeypatch.setattr(module, "policy", policy)
    return load("smoke", TINY)


def texts(pairs):
    return [(pair.chosen, pair.rejected) for pair in pairs]


def test_each_control_changes_one_thing(collected):
    found = filtered_models.training_sets(collected, 0)
    assert {name: len(pairs) for name, pairs in found.items()} == {
        STEP3: 12, STEP4: 8, HALF: 8, HALF_HUMAN: 8, SELECTED: 8, SAME_STEPS: 12, UNFILTERED: 20, SHUFFLED: 12,
    }  # fmt: skip
    assert texts(found[STEP4])[:6] == texts(found[SELECTED])[:6]
    assert texts(found[STEP4])[6:] == [(bad, good) for good, bad in texts(found[SELECTED])[6:]]
    assert set(texts(found[HALF])) <= set(texts(collected.filtered))
    for pair, said in zip(found[HALF], found[HALF_HUMAN], strict=True):
        agrees = pair.extras["labels"][0] == 1
        assert (said.chosen == pair.chosen) == agrees and said.extras["gold"] == pair.extras["gold"][:: 1 if agrees else -1]
    for name in (UNFILTERED, SHUFFLED):
        assert {frozenset(both) for both in texts(found[name])} <= {frozenset(both) for both in texts(collected.candidates)}
    again = filtered_models.training_sets(collected, 0)
    assert all(texts(found[name]) == texts(again[name]) for name in found)


def test_more_steps_show_every_pair_as_often_as_another_or_once_more(collected):
    shown = filtered_models.repeated(collected.labelled, 20, 0)
    counts = [shown.count(pair) for pair in collected.labelled]
    assert len(shown) == 20 and sorted(counts) == [2] * 4 + [3] * 4
    with pytest.raises(DataError, match="no pairs to repeat"):
        filtered_models.repeated([], 4, 0)


def test_labels_are_counted_where_people_gave_them(collected):
    found = filtered_models.training_sets(collected, 0)
    labels = filtered_models.human_labels(collected, found)
    assert labels[STEP4] == labels[SELECTED] == labels[SAME_STEPS] == labels[UNFILTERED] == 20
    assert labels[HALF_HUMAN] == 8 and labels[STEP3] == labels[HALF] == labels[SHUFFLED] == 0


def test_helpful_pairs_hold_no_harmful_request_and_all_sets_weigh_alike():
    found = filtered_models.tests(7)
    assert {name: len(pairs) for name, pairs in found.items()} == dict.fromkeys(TESTS, 7)
    about = [Task.of(pair.extras["task"]) for pair in found["Anthropic Helpful"]]
    assert "harmful" not in {task.category for task in about} and {task.split for task in about} == {TEST}
    assert {pair.extras["annotator"] for name in TESTS for pair in found[name]} == {"human", "votes"}


def by_hand(**outcomes):
    """Two pairs of each set, outcomes the same for two seeds; gold order at a tenth of the first four."""
    names = np.repeat(list(TESTS), 2)
    values = {row: np.array([outcomes.get(row.replace(" ", "_"), [0.5] * 8)] * 2, dtype=float) for row in (*ARMS, LONGER)}
    order = {row: each[:, :4] / 10 for row, each in values.items()}
    kept = [np.array([1, 1, 0, 0.0]), np.array([1, 1, 1, 0, 1, 0.0])]
    effort = {row: {"pairs": 3.0} for row in ARMS}
    return Study(values, order, names, np.arange(8).astype(str), kept, effort, {}, (0, 1))


def test_gains_are_paired_and_the_sets_weigh_alike():
    found = by_hand(**{"small_RM-Step4": [1, 1, 1, 0, 1, 1, 1, 1], "small_RM-Step3": [1, 0, 1, 0, 1, 1, 0, 0]})
    assert found.accuracy("small RM-Step4").value == pytest.approx((100 + 50 + 100 + 100) / 4)
    assert found.gain("small RM-Step4", "small RM-Step3").value == pytest.approx(37.5)
    assert found.gain("small RM-Step4", "small RM-Step3", "WebGPT").value == pytest.approx(100)
    assert found.gain("small RM-Step4", "small RM-Step3", ORDER).value == pytest.approx(2.5)
    liked = by_hand(**{"small_RM-Step4": [1, 1, 1, 0, 1, 1, 0, 0], LONGER.replace(" ", "_"): [1, 0, 0.5, 1, 1, 1, 0, 0]})
    assert liked.accuracy("small RM-Step4", LENGTH).value == pytest.approx(100 * 5 / 7)  # all but the second and the fourth
    assert found.share_of_pairs().value == pytest.approx(100 * 6 / 10) and found.share_of_pairs().n == 10


def test_the_evidence_is_what_the_rules_ask_for_and_the_paper_is_matched():
    found = by_hand(**{f"large_{name}": [1] * 8 for name in (STEP3, STEP4)})
    for claim in ("p1.c1", "p1.c2"):
        assert set(found.evidence(claim)) == set(inventory.entry(claim)["courts"]["world"])
    assert {value.value for value in found.evidence("p1.c2").values()} == {50}
    assert set(filtered_models.PUBLISHED.values()) == set(inventory.published("p1.table2"))
    columns = {row.column for row in found.records()}
    assert columns == set(inventory.entry("p1.table2")["columns"]) and OVERALL in columns


def test_number_selection_and_labels_add_up_to_the_whole():
    """step 4 less step 3 = (random part less all) + (step 4's pairs less a random part) + (people's labels less the judge's)."""
    rng = np.random.default_rng(0)
    found = by_hand(**{row.replace(" ", "_"): rng.random(8) for row in ARMS})
    whole, *parts = [found.gain(*arms).value for arms in list(CONTRASTS.values())[:4]]
    assert whole == pytest.approx(sum(parts))


def reading(gold, words):
    count = len(gold)
    return annotators.Reading([None] * count, [""] * count, np.zeros((count, 5)), np.array(gold), np.array(words))


def labels_of(who, pairs=4000):
    """Gold, in tenths, and words of random pairs in the order that an annotator gives them."""
    rng = np.random.default_rng(1)
    left, right = (reading(rng.integers(0, 20, pairs) / 10, rng.integers(10, 60, pairs).astype(float)) for _ in "12")
    first = who.prefer(left, right, rng) == annotators.FIRST
    gold, words = (np.where(first, [a, b], [b, a]) for a, b in ((left.gold, right.gold), (left.words, right.words)))
    return reading(gold[0], words[0]), reading(gold[1], words[1])


@pytest.mark.parametrize("cell", [(0.0, 0.0), (0.5, 0.0), (0.0, 0.45), (0.25, 0.9)])
def test_an_annotator_is_found_on_the_map_again(cell):
    found = label_map.liking(*labels_of(label_map.labeller(*cell)))
    assert (found.noise, found.bias) == pytest.approx(cell, abs=0.05)


def test_error_and_liking_for_length_by_hand():
    """Gold is contradicted in one of the three pairs that it orders; of two equal pairs one goes to the longer answer."""
    found = label_map.liking(reading([1, 1, 0, 1, 1.0], [20, 10, 30, 20, 10.0]), reading([0, 0, 1, 1, 1.0], [20, 10, 30, 10, 20.0]))
    assert (found.error, found.longer, found.pairs) == (pytest.approx(100 / 3), 50, 5)
    assert found.bias == 0 and found.noise == pytest.approx(2 / 3)


def test_a_cell_without_noise_or_bias_is_gold(collected):
    pairs = filtered_models.relabelled(collected, collected.candidates, label_map.labeller(0.0, 0.0), 0)
    assert all(pair.extras["gold"][0] >= pair.extras["gold"][1] for pair in pairs)
    coins = [filtered_models.relabelled(collected, collected.candidates, label_map.labeller(noise, 0.0), 0) for noise in (0.5, 1.0)]
    wrong = [{k for k, pair in enumerate(each) if pair.extras["gold"][0] < pair.extras["gold"][1]} for each in coins]
    assert wrong[0] <= wrong[1]  # more noise turns more pairs, not others


def test_verdicts_words_and_places_by_hand():
    """The fixed model at .8; a cell .2 below it, one about it, one above: few clean labels win, tie and lose."""
    rng = np.random.default_rng(0)
    fixed = np.full((1, 50), 0.8)
    cells = {(0.0, 0.0): fixed + 0.1, (0.5, 0.0): fixed + rng.normal(0, 0.1, (1, 50)).round(1), (0.5, 0.4): fixed - 0.2}
    cells[0.0, 0.4] = fixed - 0.1
    one = label_map.Liking(0.25, 0.2, 10.0, 50.0, 5)
    found = LabelMap([0.0, 0.5], [0.0, 0.4], cells, fixed, {JUDGE: [one], PEOPLE: [one]}, 1.0, (0,))
    assert found.verdict((0.0, 0.0)) == REVERSES and found.verdict((0.5, 0.4)) == HOLDS
    assert [found.count(name) for name in (HOLDS, TIES, REVERSES)] == [2, 1, 1]
    values, words = found.grid()
    assert values == pytest.approx(np.array([[-10, found.difference((0.5, 0.0)).value], [10, 20]]))
    assert words[1, 1].startswith("holds\n+20.0") and words[0, 0].startswith("reverses\n\N{MINUS SIGN}10.0")
    assert found.place(JUDGE) == (0.5, 0.5)


def test_every_arm_and_cell_is_trained_and_judged(random_policy, collected, monkeypatch):
    world, own = (random_policy.section(name) for name in ("world", "p1_02_reward_models"))
    asked = miniature.balanced(1, 0)[:4]
    answers = SimpleNamespace(texts=[["Yes.", "It is a short no. Thank you.", ""] for _ in asked])
    answers = miniature.Pool(asked, answers, miniature.graded(asked, answers.texts))
    found = filtered_models.study([collected], world, own, answers, (0,))
    assert set(found.outcomes) == {*ARMS, LONGER} and {each.shape for each in found.outcomes.values()} == {(1, 12)}
    assert {each.shape for each in found.order.values()} == {(1, 4)}
    assert {name: effort["pairs"] for name, effort in found.effort.items()}["small RM-Step3"] == 12
    assert found.effort[SAME_STEPS]["pairs"] == 8 and found.effort[SAME_STEPS]["labels"] == 20
    assert found.effort[SAME_STEPS]["steps"] == found.effort["small RM-Step3"]["steps"]
    assert {row.row for row in found.records()} == {*MAIN, SHUFFLED, LONGER, RANDOM}
    assert {row.row for row in found.arm_records()} == set(ARMS)
    assert len(found.contrast_records()) == 2 * len(CONTRASTS)
    fixed = found.models["small RM-Step4"]
    chart = label_map.study([collected], world, own, answers, fixed, (0,))
    assert set(chart.cells) == {(noise, bias) for noise in own.map_noise for bias in own.map_bias}
    assert np.array_equal(chart.fixed, found.order["small RM-Step4"], equal_nan=True)
    assert {row.id for row in chart.records()} == {"p1_02.map", "p1_02.map_cells"}
    assert {row.row for row in chart.liking_records()} == {JUDGE, PEOPLE}
