"""Selection by rank: hand ranks, exact budgets, ties that a seed settles, and input that is none."""

import numpy as np
import pytest

from repro.core.errors import DataError, SettingsError
from repro.objectives.selection import (
    influence_selection,
    random_selection,
    ranked_above,
    uncertainty_selection,
)


def test_the_docstrings_example():
    found = ranked_above([3.0, 1.0, 4.0, 2.0], 0.5, seed=0)
    assert found.ranks.tolist() == [0.75, 0.25, 1.0, 0.5] and found.places.tolist() == [0, 2] and found.tied == 0


def test_uncertainty_is_the_members_variance_by_hand():
    """Variances of members 1, 2, 3: 2/3; of 0, 0, 1: 2/9; of three that agree: 0; of -1, 0, 4: 14/3."""
    rewards = [[1.0, 0.0, 5.0, -1.0], [2.0, 0.0, 5.0, 0.0], [3.0, 1.0, 5.0, 4.0]]
    found = uncertainty_selection(rewards, 0.5, seed=0)
    assert found.ranks.tolist() == [0.75, 0.5, 0.25, 1.0] and found.places.tolist() == [0, 3]


def test_half_of_a_half_is_the_papers_quarter():
    draws = np.random.default_rng(0)
    uncertain = uncertainty_selection(draws.normal(size=(3, 2000)), 0.5, seed=0).places
    influential = influence_selection(draws.normal(size=(len(uncertain), 2)), 0.5, seed=0).places
    assert len(uncertain) == 1000 and len(influential) == 500


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.3, 0.5, 0.7, 0.75, 0.875, 0.9])
@pytest.mark.parametrize("samples", [8, 10, 40, 1000])
def test_a_threshold_keeps_its_share_whatever_the_ties(samples, threshold):
    kept = samples - int(np.floor(round(threshold * samples, 9)))
    for values in (np.random.default_rng(1).normal(size=samples), np.zeros(samples), np.arange(samples) // 3):
        assert len(ranked_above(values, threshold, seed=2).places) == kept


def test_what_is_kept_is_at_least_what_goes():
    values = np.random.default_rng(3).integers(0, 6, 100).astype(float)
    found = ranked_above(values, 0.6, seed=0)
    gone = np.delete(values, found.places)
    assert values[found.places].min() >= gone.max()


class TestTies:
    def test_they_are_counted_only_where_the_threshold_parts_them(self):
        assert ranked_above([1, 2, 2, 2, 3, 3], 0.5, seed=0).tied == 3  # of three 2s one stays
        assert ranked_above([1, 1, 1, 2, 2, 2], 0.5, seed=0).tied == 0
        assert ranked_above(np.ones(10), 0.5, seed=0).tied == 10

    def test_a_seed_settles_them_and_another_otherwise(self):
        values = np.ones(50)
        first = ranked_above(values, 0.5, seed=0).places
        assert first.tolist() == ranked_above(values, 0.5, seed=0).places.tolist()
        assert first.tolist() != ranked_above(values, 0.5, seed=1).places.tolist()
        assert first.tolist() != list(range(25, 50)), "not by place: early and late samples are different samples"

    def test_they_are_as_likely_to_stay(self):
        kept = np.zeros(10)
        for seed in range(400):
            kept[ranked_above(np.ones(10), 0.5, seed).places] += 1
        assert np.all(np.abs(kept / 400 - 0.5) < 0.1)

    def test_samples_off_the_threshold_do_not_depend_on_the_seed(self):
        values = np.array([5.0, 1, 1, 1, 0, 6])
        assert all({0, 5} <= set(ranked_above(values, 0.5, seed).places) for seed in range(20))


def test_by_ranks_no_subtask_of_wider_scores_decides_alone():
    """The second subtask's scores are a thousand times the first's: the maximum is the second alone, the ranks are not."""
    scores = [[0.4, -100.0], [0.1, 50.0], [0.3, -900.0], [0.2, 10.0]]
    assert influence_selection(scores, 0.5, seed=0).places.tolist() == [1, 3]
    assert influence_selection(scores, 0.5, seed=0, over="ranks").places.tolist() == [0, 1]


def test_largest_and_mean_over_subtasks_differ():
    """Sample 0 is best for one subtask and bad for the other; sample 1 is fair for both."""
    scores = [[0.9, -0.9], [0.5, 0.5], [0.0, 0.1], [0.1, 0.0]]
    assert influence_selection(scores, 0.5, seed=0).places.tolist() == [0, 1]
    assert 0 not in influence_selection(scores, 0.5, seed=0, over="mean").places


def test_random_selection_keeps_the_budget_and_its_seed():
    found = random_selection(100, 25, seed=0)
    assert len(set(found.places)) == 25 and found.places.tolist() == sorted(found.places)
    assert found.places.tolist() == random_selection(100, 25, seed=0).places.tolist()
    assert found.places.tolist() != random_selection(100, 25, seed=1).places.tolist()
    assert sorted(found.ranks[found.places]) == pytest.approx(np.arange(76, 101) / 100)
    assert random_selection(4, 4, seed=0).places.tolist() == [0, 1, 2, 3]


def test_random_selection_is_fair():
    kept = np.zeros(8)
    for seed in range(800):
        kept[random_selection(8, 2, seed).places] += 1
    assert np.all(np.abs(kept / 800 - 0.25) < 0.06)


class TestBadInput:
    def test_a_reward_that_is_none_is_named(self):
        rewards = np.ones((3, 10))
        rewards[1, 7] = np.nan
        with pytest.raises(DataError, match="member 1, row 7"):
            uncertainty_selection(rewards, 0.5, seed=0)

    def test_no_ensemble(self):
        with pytest.raises(DataError, match="two members or more"):
            uncertainty_selection(np.ones((1, 4)), 0.5, seed=0)

    def test_a_score_that_is_none_is_named(self):
        with pytest.raises(DataError, match="sample 2"):
            influence_selection([[0.0, 1.0], [1.0, 1.0], [np.nan, 0.0]], 0.5, seed=0)

    @pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
    def test_a_threshold_that_is_no_share(self, threshold):
        with pytest.raises(SettingsError, match="no share"):
            ranked_above([1.0, 2.0], threshold, seed=0)

    def test_a_threshold_that_keeps_none(self):
        with pytest.raises(DataError, match="none of 2 samples"):
            ranked_above([1.0, 2.0], 1.0, seed=0)

    def test_no_samples_and_no_subtasks(self):
        with pytest.raises(DataError, match="one value a sample"):
            ranked_above([], 0.5, seed=0)
        with pytest.raises(DataError, match="at least one subtask"):
            influence_selection(np.ones((3, 0)), 0.5, seed=0)
        with pytest.raises(SettingsError, match="max, mean, ranks"):
            influence_selection(np.ones((3, 1)), 0.5, seed=0, over="sum")

    @pytest.mark.parametrize("budget", [0, 11])
    def test_a_budget_out_of_range(self, budget):
        with pytest.raises(DataError, match="ask for 1 to 10"):
            random_selection(10, budget, seed=0)
