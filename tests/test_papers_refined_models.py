"""Refined reward models: accuracy, gains and calibration by hand, oracles, and a run of the smallest models."""

from types import SimpleNamespace

import numpy as np
import pytest

from repro.core import inventory
from repro.core.settings import load
from repro.data import Pair
from repro.evaluate.preference import calibration
from repro.objectives.selection import Selection
from repro.papers import miniature, refined_models, ugda, ugda_measures
from repro.papers.refined_models import (
    BEFORE,
    BENCH,
    CALIBRATION,
    GOLD,
    LONGER,
    MODELS,
    OWN,
    PAIRS,
    PEOPLE,
    PPO,
    REFINED,
    SFT,
    SUBTASKS,
    UGDA,
    Ordered,
    RefinedStudy,
    published_records,
    study,
)
from repro.world import sources
from tests import online_loop

SMALL = {"preference_pairs": 24, "ppo_prompts": 12, "reference_prompts": 6, "validation_samples": 3, "test_prompts": 3}
SMALL |= {"ppo_rollouts": 12, "ppo_max_new_tokens": 6, "members": 2, "batch_size": 8, "ppo_epochs": 1}
SMALL |= {"ppo_iterations": 1}
FEW = ("RLR", UGDA, OWN, "all labelled")  # a model is refined and scored in many small steps
FIRST = {"Chat": 1, "Chat Hard": 1, "Safety": 1, "Reasoning": 1}


def ordered(worth, parts=None, **rewards):
    """One seed's test from the members' mean reward of each answer, (prompts, n), held by two members that differ by 2."""
    found = {who: np.stack([np.array(each) + 1, np.array(each) - 1])[None] for who, each in rewards.items()}
    count = len(worth)
    return Ordered(
        found, np.array([worth], dtype=float), np.array(parts or ["helpful"] * count), [str(k) for k in range(count)]
    )


def by_hand(margins, **more):
    """A study whose people's pairs have these margins in calibrated reward by model; a unit is 2 of one member, 4 of the other."""
    rewards = {who: np.stack([each, np.zeros_like(each)], axis=-1) for who, each in margins.items()}
    count = len(next(iter(margins.values())))
    test = ordered([[1, 0]] * count, ["helpful", "harmless"] * (count // 2), **rewards)
    return RefinedStudy({PEOPLE: test, **more}, np.array([[2.0, 4.0]]), [], [], [], (0,))


class TestOrdered:
    def test_accuracy_gain_and_ties_by_hand(self):
        """Right, wrong, a tie; then right, right, right: 50 and 100 percent, 50 points."""
        first, second = [[1, 0], [0, 1], [1, 1]], [[2, 0], [1, 0], [1, 0]]
        test = ordered([[1, 0]] * 3, one=first, two=second)
        assert test.outcomes("one").tolist() == [[1, 0, 0.5]]
        assert test.accuracy("one", "helpful").value == 50 and test.gain("two", "one", "helpful").value == 50
        assert test.gain("one", "one", "helpful").half_width == 0

    def test_seeds_count_as_draws_of_their_own(self):
        """One seed is right everywhere, the other nowhere: 50 percent, and an interval that nothing narrows."""
        one = ordered([[1, 0]] * 50, one=[[1, 0]] * 50)
        rewards = np.concatenate([one.rewards["one"], -one.rewards["one"]])
        both = Ordered({"one": rewards}, one.worth.repeat(2, 0), one.parts, one.groups)
        found = both.accuracy("one", "helpful")
        assert found.value == 50 and found.low < 0 and found.high > 100 and found.n == 50

    def test_answers_of_equal_worth_have_no_order(self):
        """The second prompt has nothing to order, and harmless is not kept; rounding is no difference in worth."""
        test = ordered([[1, 0], [0.1 + 0.2, 0.3]], ["helpful", "harmless"], one=[[1, 0], [1, 0]])
        assert np.isnan(test.outcomes("one")[0, 1]) and test.kept == ["helpful"]

    def test_a_shift_or_a_scale_of_the_rewards_changes_nothing(self):
        rng = np.random.default_rng(0)
        rewards, worth = rng.normal(size=(20, 4)), rng.normal(size=(20, 4))
        test = ordered(worth, one=rewards, two=3 * rewards + 7)
        assert test.outcomes("one").tolist() == test.outcomes("two").tolist()

    def test_what_is_gained_beyond_another_test_by_hand(self):
        """Here from wrong to right, there from wrong to a tie: 100 less 50 points."""
        here = ordered([[1, 0]], one=[[0, 1]], two=[[1, 0]])
        there = ordered([[1, 0]], one=[[0, 1]], two=[[1, 1]])
        assert here.beyond(there, "two", "one", "helpful").value == 50
        assert here.beyond(ordered([[1, 1]], one=[[0, 1]], two=[[1, 1]]), "two", "one", "helpful") is None


class TestCalibration:
    def test_margins_are_in_the_raw_reward_of_each_member(self):
        """A margin of 1 in both members' units is 2 of one and 4 of the other: 3 on average."""
        assert by_hand({BEFORE: np.array([1.0, -2.0])}).margins(BEFORE).tolist() == [[3, -6]]

    def test_losses_are_those_of_the_general_function(self):
        margins = np.random.default_rng(0).normal(size=50)
        expected = calibration(margins)
        assert CALIBRATION["log loss (nats)"](margins).mean() == pytest.approx(expected.log_loss)
        known = expected.count > 0
        gap = (expected.count * (expected.confidence - expected.accuracy))[known].sum() / 50
        assert CALIBRATION["overconfidence (points)"](margins).mean() == pytest.approx(100 * gap)

    def test_a_model_that_knows_nothing_loses_log_2_and_claims_nothing(self):
        assert CALIBRATION["log loss (nats)"](np.zeros(3)) == pytest.approx(np.log(2))
        assert CALIBRATION["overconfidence (points)"](np.zeros(3)).tolist() == [0, 0, 0]

    def test_the_parts_are_equal_and_ordered_by_confidence(self):
        """Ten pairs; the five surest are right, the others wrong: 0 percent, then 100."""
        margins = np.array([-0.1, -0.2, -0.3, -0.4, -0.5, 1, 2, 3, 4, 5])
        rows = by_hand({BEFORE: margins}).reliability_records([BEFORE], parts=2)
        assert [row.value for row in rows] == [0, 100] and [row.n for row in rows] == [5, 5]
        first, second = (float(row.column.split("=")[1]) for row in rows)
        assert 50 < first < second

    def test_differences_are_paired(self):
        margins = np.random.default_rng(0).normal(size=10)
        rows = by_hand({BEFORE: margins, UGDA: margins}).calibration_records([BEFORE, UGDA])
        assert {(row.value, row.low, row.high) for row in rows if "less" in row.row} == {(0, 0, 0)}


class TestRecords:
    def test_the_evidence_is_what_the_rules_ask_for(self):
        """UGDA orders all as labelled, before nothing: 100 points each."""
        margins = {BEFORE: -np.ones(4), UGDA: np.ones(4)}
        sections = [name for name in FIRST for _ in "12"]
        rewards = {who: np.repeat([[float(sign), 0.0]], 8, 0) for who, sign in ((BEFORE, -1), (UGDA, 1))}
        found = by_hand(margins, **{BENCH: ordered([[1, 0]] * 8, sections, **rewards)})
        for claim in ("p3.c8", "p3.c9"):
            evidence = found.evidence(claim)
            assert set(evidence) == set(inventory.entry(claim)["courts"]["world"])
            assert {each.value for each in evidence.values()} == {100}

    def test_the_published_figure_stands_beside_ours(self):
        published = inventory.published("p3.fig7")
        assert set(refined_models.BESIDE.values()) == set(published)
        test = by_hand({who: np.ones(2) for who in (BEFORE, UGDA)}).tests[PEOPLE]
        rows = published_records(test.accuracy, "the world", [BEFORE, UGDA], {part: part for part in SUBTASKS}, [0])
        assert set(refined_models.BESIDE) <= {row.row for row in rows} and {row.value for row in rows} == {100}

    def test_shares_of_what_is_selected_by_hand(self):
        """Two of four samples are harmless; a control that labels itself asks for no label."""
        asked = sources.prompts(60, "train", 0)
        kinds = {name: [task for task in asked if task.category in SUBTASKS[name]] for name in SUBTASKS}
        tasks = kinds["helpful"][:2] + kinds["harmless"][:2]
        picked = {
            name: SimpleNamespace(labels=2, selection=Selection(np.array([0, 1]), np.ones(2))) for name in REFINED
        }
        picked[UGDA] = SimpleNamespace(labels=2, selection=Selection(np.array([2, 3]), np.ones(2)))
        picked[OWN] = SimpleNamespace(labels=0, selection=Selection(np.array([0, 2]), np.ones(2)))
        found = RefinedStudy({}, np.ones((1, 2)), [], [SimpleNamespace(tasks=tasks)], [picked], (0,))
        rows = {(row.row, row.column): row.value for row in found.selected_records()}
        assert (
            rows[UGDA, "harmless (%)"] == 100 and rows["RLR", "harmless (%)"] == 0 and rows[OWN, "harmless (%)"] == 50
        )
        assert rows[UGDA, "# labels"] == 2 and rows[OWN, "# labels"] == 0

    def test_rewards_and_their_variance_by_hand(self):
        """Members at +-1 about means 3 and 5: mean 4, variance 1; gold is 2."""
        tests = {name: ordered([[1, 3]], **{who: [[3, 5]] for who in MODELS}) for name in (SFT, PPO)}
        rows = RefinedStudy(tests, np.ones((1, 2)), [], [], [], (0,)).reward_records()
        found = {(row.row, row.column): row.value for row in rows}
        assert (
            found[UGDA, f"mean, {SFT}"] == 4
            and found[UGDA, f"variance, {PPO}"] == 1
            and found["gold", f"mean, {SFT}"] == 2
        )

    def test_the_pair_that_moved_most_is_shown(self):
        found = by_hand({BEFORE: np.array([1.0, 0.0]), UGDA: np.array([1.0, 2.0])})
        pairs = [Pair((("user", word),), "good", "bad", "here", {"gold": [2.0, 1.0]}) for word in ("calm", "moved")]
        text = RefinedStudy(found.tests, found.spread, pairs, [], [], (0,)).shown()
        assert "user: moved" in text.values() and any("UGDA +3.00, +1.00" in label for label in text)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One seed of the smallest models, whose policies are random weights."""
    patch = pytest.MonkeyPatch()
    patch.setenv("REPRO_RUNS", str(tmp_path_factory.mktemp("refined")))
    patch.setenv("REPRO_BATCH", "1")
    for module in (miniature, ugda, ugda_measures):
        patch.setattr(module, "policy", online_loop.first)
    patch.setattr(refined_models, "REFINED", FEW)
    patch.setattr(refined_models, "MODELS", (BEFORE, *FEW))
    patch.setattr(refined_models, "CONTRASTS", [(UGDA, BEFORE), (UGDA, "RLR")])
    loaded = load("smoke")
    world, own, small = (loaded.section(name) for name in ("world", "p3_03_ugda", "p3_05_reward_models"))
    world, own = world.pick(*world, max_new_tokens=8), own.pick(*own, **SMALL)
    yield study(world, own, small.pick(*small, test_pairs=16), (3,), 1), own
    patch.undo()


class TestRun:
    def test_every_model_meets_every_test(self, run):
        found, own = run
        assert set(found.tests) == {BENCH, PEOPLE, PAIRS, SFT, PPO}
        for name, test in found.tests.items():
            assert {BEFORE, *FEW, LONGER} <= set(test.rewards)
            size = own.accuracy_answers if name in (SFT, PPO) else 2
            assert {test.rewards[who].shape for who in (BEFORE, *FEW)} == {(1, 2, len(test.parts), size)}
            assert test.worth.shape == (1, len(test.parts), size)

    def test_people_and_gold_are_asked_of_the_same_rewards(self, run):
        """Gold's own order of people's pairs is gold's order, and people's labels are not always."""
        tests = run[0].tests
        assert tests[PAIRS].rewards is tests[PEOPLE].rewards
        assert np.nanmin(tests[PAIRS].outcomes(GOLD)) == 1
        golds = [pair.extras["gold"] for pair in run[0].pairs]
        expected = [0.5 + 0.5 * np.sign(round(chosen - rejected, 9)) for chosen, rejected in golds]
        assert tests[PEOPLE].outcomes(GOLD)[0].tolist() == expected
        assert list(tests[PEOPLE].parts) == sorted(tests[PEOPLE].parts, reverse=True)

    def test_methods_share_what_they_start_from(self, run):
        """One ensemble a seed and as many labels for all selectors; refinement changes rewards, and keeps their scale."""
        found, _ = run
        for seed, outcomes in enumerate(found.outcomes):
            asked = {name: each.labels for name, each in outcomes.items()}
            assert (
                asked.pop(OWN) == 0
                and asked.pop("all labelled") == len(found.found[seed])
                and len(set(asked.values())) == 1
            )
        rewards = found.tests[PEOPLE].rewards
        assert not np.allclose(rewards[BEFORE], rewards[UGDA]) and not np.allclose(rewards[UGDA], rewards[OWN])
        assert found.spread.shape == (1, 2) and (found.spread > 0).all()

    def test_records_have_intervals_and_seeds_and_come_once(self, run):
        found, _ = run
        rows = [*found.section_records(), *found.section_gain_records()]
        for part in found.tests[PEOPLE].kept:
            rows += [*found.accuracy_records(part), *found.gain_records(part)]
        rows += [*found.reward_records(), *found.selected_records(), *found.calibration_records()]
        assert all(row.low <= row.value <= row.high and row.n for row in rows if not row.column.startswith("#"))
        assert {row.seed for row in rows if row.row != "random"} == {"3"}
        assert len({(row.id, row.row, row.column) for row in rows}) == len(rows)
