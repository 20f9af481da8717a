"""Best-of-n: hand arithmetic, every subset enumerated, big integers, limits, and the KL bound."""

import itertools
import math

import numpy as np
import pytest

from repro.core.errors import DataError
from repro.evaluate.best_of_n import (
    best_of_n_curve,
    best_of_n_distribution,
    best_of_n_kl,
    best_of_n_kl_bound,
    best_of_n_weights,
    raw_contest,
    selector_contest,
)


def test_hand_example():
    """Four answers, proxy 1 2 3 4, values 10 20 30 0. Of the 6 pairs, rank 4 wins 3, rank 3 two, rank 2 one.

    n=2: (1 x 20 + 2 x 30 + 3 x 0) / 6 = 80 / 6.
    """
    curve = best_of_n_curve([[3, 1, 4, 2]], [[30, 10, 0, 20]], [1, 2, 4])
    assert curve[0] == pytest.approx([15.0, 80 / 6, 0.0], abs=1e-14)


def enumerated(proxy, value, n):
    """Mean over every subset of the mean value of its top-scored answers: fair ties, no formula."""
    means = []
    for subset in itertools.combinations(range(len(proxy)), n):
        best = max(proxy[i] for i in subset)
        means.append(np.mean([value[i] for i in subset if proxy[i] == best]))
    return np.mean(means)


@pytest.mark.parametrize("levels", [100000, 4, 1])
def test_equals_the_mean_over_all_subsets(levels):
    """Without ties, with many, and with nothing but ties."""
    rng = np.random.default_rng(levels)
    proxy, value = rng.integers(levels, size=(3, 9)), rng.normal(size=(3, 9))
    curve = best_of_n_curve(proxy, value, range(1, 10))
    expected = [[enumerated(p, v, n) for n in range(1, 10)] for p, v in zip(proxy, value, strict=True)]
    assert curve == pytest.approx(np.array(expected), abs=1e-13)


@pytest.mark.parametrize("n", [1, 2, 7, 100, 399, 400])
def test_weights_equal_the_big_integer_formula(n):
    exact = [math.comb(i - 1, n - 1) / math.comb(400, n) for i in range(1, 401)]
    weights = best_of_n_weights(400, [n])[0]
    assert weights == pytest.approx(exact, rel=1e-12, abs=1e-300)
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)


def test_limits_are_mean_and_best():
    rng = np.random.default_rng(0)
    proxy = rng.normal(size=(5, 3000))
    curve = best_of_n_curve(proxy, proxy, [1, 3000])
    assert curve[:, 0] == pytest.approx(proxy.mean(1), abs=1e-12)
    assert curve[:, 1] == pytest.approx(proxy.max(1), abs=0)


def test_only_the_order_of_proxy_counts_and_answers_can_be_shuffled():
    rng = np.random.default_rng(1)
    proxy, value = rng.normal(size=(2, 50)), rng.normal(size=(2, 50))
    curve, shuffle = best_of_n_curve(proxy, value, [3, 10]), rng.permutation(50)
    assert best_of_n_curve(np.exp(proxy), value, [3, 10]) == pytest.approx(curve, abs=1e-13)
    assert best_of_n_curve(proxy[:, shuffle], value[:, shuffle], [3, 10]) == pytest.approx(curve, abs=1e-13)


@pytest.mark.parametrize("scale", [1.0, -1e-300, 2.0**-52])
def test_scores_of_any_size_and_closeness_are_told_apart(scale):
    """1,000 scores around 1 that differ in the last bit only, negative ones, subnormal ones: the best is still picked."""
    rank = np.random.default_rng(7).permutation(1000)
    proxy = (1.0 if scale > 0 else 0.0) + scale * rank
    assert len(np.unique(proxy)) == 1000
    value = rank if scale > 0 else 999 - rank
    expected = best_of_n_weights(1000, [1, 3, 1000]) @ np.arange(1000)
    assert best_of_n_curve([proxy], [value], [1, 3, 1000])[0] == pytest.approx(expected, abs=1e-9)


def test_unbiased_for_the_population():
    """Best of n uniform numbers is n / (n + 1) on average; 4,000 pools of 20 agree within 5 standard errors."""
    pools = np.random.default_rng(2).random((4000, 20))
    curve = best_of_n_curve(pools, pools, [1, 4, 16])
    error = curve.std(0) / math.sqrt(4000)
    assert (np.abs(curve.mean(0) - np.array([1, 4, 16]) / np.array([2, 5, 17])) < 5 * error).all()


@pytest.mark.parametrize("bad", [[0], [11], [], [2.5]])
def test_impossible_n_is_refused(bad):
    with pytest.raises(DataError, match="n must be"):
        best_of_n_curve(np.ones((1, 10)), np.ones((1, 10)), bad)


def test_unequal_shapes_and_missing_scores_are_refused():
    with pytest.raises(DataError, match="one shape"):
        best_of_n_curve(np.ones((1, 3)), np.ones((1, 4)), [1])
    with pytest.raises(DataError, match="not finite"):
        best_of_n_curve([[1.0, np.nan]], [[1.0, 2.0]], [1])


def test_kl_by_hand():
    """Two equally likely answers, n = 2: the better is kept with 3/4, so KL = 3/4 log 3/2 + 1/4 log 1/2 = 0.1308.

    The bound is log 2 - 1/2 = 0.1931.
    """
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert best_of_n_kl([0.5, 0.5], [0.0, 1.0], 2) == pytest.approx(expected, abs=1e-15)
    assert best_of_n_kl_bound(2) == pytest.approx(math.log(2) - 0.5)


def test_distribution_equals_enumeration_with_ties():
    """Every draw of 4 from 4 answers listed, the top reward kept, ties fairly split."""
    probability, reward, n = np.array([0.4, 0.3, 0.2, 0.1]), np.array([1.0, 2.0, 2.0, 0.0]), 4
    expected = np.zeros(4)
    for draw in itertools.product(range(4), repeat=n):
        best = [i for i in draw if reward[i] == max(reward[list(draw)])]
        for i in best:
            expected[i] += probability[list(draw)].prod() / len(best)
    assert best_of_n_distribution(probability, reward, n) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("n", [1, 2, 5, 50, 1000])
def test_kl_never_exceeds_the_bound(n):
    rng = np.random.default_rng(n)
    for levels in (2, 5, 40):
        probability = rng.dirichlet(np.full(40, 0.3))
        divergence = best_of_n_kl(probability, rng.integers(levels, size=40), n)
        assert -1e-12 <= divergence <= best_of_n_kl_bound(n) + 1e-12


def test_kl_limits():
    """Many small answers meet the bound; ties only lower it; all ties give 0; a large n stops at -log of the best's mass."""
    fine = np.full(200_000, 1 / 200_000)
    reward = np.arange(200_000)
    assert best_of_n_kl(fine, reward, 10) == pytest.approx(best_of_n_kl_bound(10), abs=1e-4)
    assert best_of_n_kl(fine, reward // 50_000, 10) < best_of_n_kl_bound(10) - 0.1
    assert best_of_n_kl([0.2, 0.8], [1, 1], 7) == pytest.approx(0.0, abs=1e-15)
    assert best_of_n_kl([0.99, 0.01], [0, 1], 100_000) == pytest.approx(-math.log(0.01), abs=1e-9)
    assert best_of_n_kl([0.5, 0.5, 0.0], [0, 1, 2], 2) == pytest.approx(best_of_n_kl([0.5, 0.5], [0, 1], 2))


def contest_by_enumeration(first, second, value, n):
    """Every subset and, for ties, every order in which its members could have been drawn."""
    outcomes = []
    for draw in itertools.permutations(range(len(value)), n):
        draw = list(draw)
        mine, theirs = draw[int(np.argmax(first[draw]))], draw[int(np.argmax(second[draw]))]
        outcomes.append((value[mine] > value[theirs], value[mine] == value[theirs], value[mine] < value[theirs]))
    return np.mean(outcomes, axis=0)


@pytest.mark.parametrize("judge_levels", [1000, 3])
def test_contest_equals_enumeration(judge_levels):
    rng = np.random.default_rng(judge_levels)
    first, second, value = rng.normal(size=7), rng.normal(size=7), rng.integers(judge_levels, size=7)
    contest = selector_contest([first], [second], [value], [1, 2, 3, 4, 5, 6, 7])
    ours = np.stack([contest.win[0], contest.tie[0], contest.lose[0]], axis=1)
    expected = [contest_by_enumeration(first, second, value, n) for n in range(1, 8)]
    assert ours == pytest.approx(np.array(expected), abs=1e-13)
    assert contest.error == pytest.approx(0.0, abs=0)


def test_contest_with_tied_rewards_states_an_honest_error():
    rng = np.random.default_rng(5)
    first, second, value = rng.integers(3, size=6), rng.integers(2, size=6), rng.normal(size=6)
    contest = selector_contest([first], [second], [value], [3], orders=400)
    win, tie, _ = contest_by_enumeration(first, second, value, 3)
    assert 0 < contest.error[0, 0] < 0.05
    assert abs(contest.rate[0, 0] - (win + tie / 2)) < 4 * contest.error[0, 0]


def test_contest_limits_and_symmetry():
    """A perfect selector never loses, one draw leaves no choice, and swapping the selectors swaps wins and losses."""
    rng = np.random.default_rng(6)
    gold, noisy = rng.normal(size=(4, 30)), rng.normal(size=(4, 30))
    contest, swapped = selector_contest(gold, noisy, gold, [1, 5, 30]), selector_contest(noisy, gold, gold, [1, 5, 30])
    assert contest.lose == pytest.approx(0.0, abs=1e-15)
    assert contest.rate[:, 0] == pytest.approx(0.5)
    assert contest.win == pytest.approx(swapped.lose, abs=1e-14)
    assert selector_contest(gold, gold, gold, [7]).tie == pytest.approx(1.0)
    assert selector_contest([[1.0]], [[2.0]], [[3.0]], [1]).tie == pytest.approx(1.0)


def test_against_one_raw_answer_by_hand():
    """Worth 0, 10, 20: against a random one of the three (itself a tie) the best wins 5/6, the middle 1/2, the worst 1/6."""
    value = np.array([[0.0, 10.0, 20.0]])
    good, bad = (raw_contest(reward, value, [1, 3])[0] for reward in (value, -value))
    assert good == pytest.approx([1 / 2, 5 / 6]) and bad == pytest.approx([1 / 2, 1 / 6])
