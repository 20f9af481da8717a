"""AlpacaEval 2: hand arithmetic, the published leaderboard recomputed, and the length-controlled refit."""

import functools
import math
from dataclasses import astuple
from typing import NamedTuple

import numpy as np
import pytest
from scipy.special import expit

from repro.core.errors import DataError
from repro.core.paths import data_folder
from repro.data import alpaca_eval
from repro.data.alpaca_eval import Weights
from repro.evaluate.alpacaeval import (
    GamedBaseline,
    fit_length_controlled,
    gamed_baseline,
    length_controlled,
    length_controlled_interval,
    length_term,
    win_rate,
    win_rate_interval,
)

GAMED = ("gpt4_1106_preview_concise", "gpt4_1106_preview_verbose")
# the published weights of these were refitted after their leaderboard row was written
STALE_WEIGHTS = {"NullModel": 0.14}


def test_win_rate_by_hand():
    """Preferences 2, 1, 1.5, 1.75: mean 56.25%, wins 2, draw 1, loss 1, so (2 + 0.5) / 4 = 62.5%.

    Deviations 43.75, 56.25, 6.25, 18.75 points: variance 5468.75 / 3, error sqrt(5468.75 / 3 / 4) = 21.35.
    """
    result = win_rate([2.0, 1.0, 1.5, 1.75])
    assert (result.win_rate, result.discrete_win_rate) == (56.25, 62.5)
    assert (result.wins, result.draws, result.losses, result.n) == (2, 1, 1, 4)
    assert result.standard_error == pytest.approx(math.sqrt(5468.75 / 12))


def test_missing_preferences_leave_and_zero_is_a_draw():
    assert win_rate([2.0, np.nan, 0.0, 1.0]).n == 3
    assert win_rate([2.0, np.nan, 0.0, 1.0]).win_rate == pytest.approx(50.0)
    for bad in ([0.5, 1.0], [2.5, 1.0], [np.nan, np.nan]):
        with pytest.raises(DataError):
            win_rate(bad)


def test_swapping_the_two_sides_mirrors_the_win_rate():
    preference = np.random.default_rng(0).uniform(1, 2, 100)
    ours, swapped = win_rate(preference), win_rate(3 - preference)
    assert ours.win_rate + swapped.win_rate == pytest.approx(100)
    assert ours.discrete_win_rate + swapped.discrete_win_rate == pytest.approx(100)
    assert ours.standard_error == pytest.approx(swapped.standard_error)


def test_length_term_by_hand():
    """Differences 10, -10, 0 have standard deviation 10, so the terms are tanh 1, -tanh 1, 0."""
    assert length_term([20, 10, 5], [10, 20, 5]) == pytest.approx([math.tanh(1), -math.tanh(1), 0])
    with pytest.raises(DataError, match="equal"):
        length_term([5, 6], [4, 5])


def test_lc_win_rate_by_hand():
    """Difficulty log 3 and -log 3 with weight 1 and no constant: (0.75 + 0.25) / 2 = 50%, error 0.25."""
    result = length_controlled(Weights(-9.0, 1.0, 0.0), [math.log(3), -math.log(3)])
    assert result.win_rate == pytest.approx(50)
    assert result.standard_error == pytest.approx(25)
    assert length_controlled(Weights(1.0, 0.0, math.log(4)), np.zeros(5)).win_rate == pytest.approx(80)


def simulated(weights: Weights, prompts: int = 4000, seed: int = 0):
    """Annotations whose preferences are exactly the model's probabilities, and gamed rows that share its length weight."""
    rng = np.random.default_rng(seed)
    lengths, difficulty = rng.integers(50, 3000, size=(4, prompts)), rng.normal(size=prompts)
    rows = gamed_baseline(weights, lengths[0], lengths[1], difficulty)
    gamed = [gamed_baseline(Weights(weights.length, weights.difficulty, 0), lengths[0], lengths[2], difficulty)]
    return 1 + rows.preference, rows.length, difficulty, gamed


def test_refit_recovers_the_weights_that_made_the_preferences():
    weights = Weights(-1.5, 0.8, 0.4)
    preference, length, difficulty, gamed = simulated(weights)
    fitted = fit_length_controlled(preference, length, difficulty, gamed)
    assert astuple(fitted.weights) == pytest.approx(astuple(weights), abs=0.02)
    assert fitted.win_rate == pytest.approx(length_controlled(weights, difficulty).win_rate, abs=0.2)


def test_length_control_undoes_a_judge_that_only_likes_length():
    """Equal models, but the longer answers win: the raw rate is far from 50%, the controlled one is not."""
    rng = np.random.default_rng(1)
    baseline, longer = rng.integers(200, 1500, 3000), rng.integers(800, 2500, 3000)
    length, difficulty = length_term(baseline, longer), rng.normal(size=3000)
    preference = 1 + (rng.random(3000) < expit(-2.0 * length))
    assert win_rate(preference).win_rate > 70
    assert fit_length_controlled(preference, length, difficulty).win_rate == pytest.approx(50, abs=4)


def test_refit_equals_an_independent_optimiser():
    """At the chosen penalty, a general-purpose minimiser of |w|_1 + C sum weight x soft log loss finds the same weights."""
    optimize = pytest.importorskip("scipy.optimize")
    preference, length, difficulty, gamed = simulated(Weights(-1.5, 0.8, -2.0), prompts=300, seed=2)
    preference = 1 + (np.random.default_rng(3).random(300) < preference - 1)
    fitted = fit_length_controlled(preference, length, difficulty, gamed)
    features = np.vstack(
        [np.c_[gamed[0].length, gamed[0].difficulty, np.zeros(300)], np.c_[length, difficulty, np.ones(300)]]
    )
    labels = np.concatenate([gamed[0].preference, preference - 1])
    weight = np.repeat([0.2, 1.0], 300)

    def objective(w: np.ndarray) -> float:
        margin = features @ w
        loss = weight * (np.logaddexp(0, margin) - labels * margin)
        return np.abs(w).sum() + fitted.inverse_penalty * loss.sum()

    best = optimize.minimize(objective, [-1, 1, -1], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-10})
    assert astuple(fitted.weights) == pytest.approx(best.x, abs=2e-3)


def test_lc_interval_is_seeded_and_narrows_with_more_prompts():
    wide = length_controlled_interval(*_noisy(400), seed=1, draws=300)
    assert wide == length_controlled_interval(*_noisy(400), seed=1, draws=300)
    narrow = length_controlled_interval(*_noisy(6400), seed=1, draws=300)
    assert wide.low < wide.value < wide.high
    assert wide.half_width / narrow.half_width == pytest.approx(4, rel=0.25)


def test_lc_interval_covers_the_truth():
    """40 data sets from known weights: a 95% interval should miss 2; more than 6 misses has probability 0.4%."""
    truth = Weights(-1.5, 0.8, -0.5)
    misses = 0
    for seed in range(40):
        preference, length, difficulty, gamed = simulated(truth, prompts=400, seed=seed)
        preference = 1 + (np.random.default_rng(seed).random(400) < preference - 1)
        interval = length_controlled_interval(preference, length, difficulty, gamed, draws=200)
        expected = 100 * np.mean(expit(0.8 * np.random.default_rng(99).normal(size=100_000) - 0.5))
        misses += not interval.low <= expected <= interval.high
    assert misses <= 6


def _noisy(prompts: int):
    preference, length, difficulty, gamed = simulated(Weights(-1.5, 0.8, -0.5), prompts=prompts, seed=prompts)
    rng = np.random.default_rng(prompts)
    return 1 + (rng.random(prompts) < preference - 1), length, difficulty, gamed


def test_unequal_shapes_are_refused():
    with pytest.raises(DataError, match="shapes"):
        fit_length_controlled([1.0, 2.0], [0.0], [0.0, 1.0])
    with pytest.raises(DataError, match="difficulties"):
        gamed_baseline(Weights(0, 0, 0), [1, 2], [2, 5], [0.0])


class Real(NamedTuple):
    """One annotated model: its arrays and its row of the leaderboard."""

    preference: np.ndarray
    length: np.ndarray
    published: dict


@functools.cache
def real() -> tuple[dict[str, Real], np.ndarray, list[GamedBaseline]]:
    """The 9 annotated models that have a leaderboard row, the difficulty, and the two gamed baselines."""
    if data_folder() is None or not (data_folder() / "alpaca_eval").is_dir():
        pytest.skip("AlpacaEval's annotations are not on this machine")
    published, difficulty = alpaca_eval.leaderboard(), np.array(alpaca_eval.difficulty())
    by_model: dict[str, list] = {}
    for row in sorted(alpaca_eval.annotations().rows, key=lambda row: row.index):
        by_model.setdefault(row.model, []).append(row)
    baseline = np.array([len(row.baseline_text) for row in next(iter(by_model.values()))])
    models = {}
    for model in sorted(set(by_model) & set(published)):
        lengths = [len(row.text) for row in by_model[model]]
        preference = np.array([row.preference for row in by_model[model]])
        models[model] = Real(preference, length_term(baseline, lengths), published[model])
    answers: dict[str, dict[int, int]] = {model: {} for model in GAMED}
    for answer in alpaca_eval.load(leave_out=set(alpaca_eval.models(leave_out=())) - set(GAMED)).rows:
        answers[answer.model][answer.extras["index"]] = len(answer.text)
    weights = alpaca_eval.weights()
    gamed = [
        gamed_baseline(weights[model], baseline, [answers[model][i] for i in range(len(baseline))], difficulty)
        for model in GAMED
    ]
    return models, difficulty, gamed


def test_real_win_rates_equal_the_leaderboard():
    models, _, _ = real()
    assert len(models) == 9
    for model, (preference, _, published) in models.items():
        ours = win_rate(preference)
        assert ours.win_rate == pytest.approx(published["win_rate"], abs=1e-8), model
        assert ours.standard_error == pytest.approx(published["standard_error"], abs=1e-8), model
        assert ours.discrete_win_rate == pytest.approx(published["discrete_win_rate"], abs=1e-9), model
        assert (ours.wins, ours.draws, ours.n) == (published["n_wins"], published["n_draws"], 805), model
        interval = win_rate_interval(preference)
        assert interval.half_width == pytest.approx(1.96 * ours.standard_error, rel=0.06), model


def test_real_lc_rates_follow_from_the_published_weights():
    """Of 199 models with weights and a row, 189 agree to 1e-6 points; the rest have stale weights, the worst by 0.19."""
    _, difficulty, _ = real()
    published, weights = alpaca_eval.leaderboard(), alpaca_eval.weights()
    gaps, errors = [], []
    for model in set(published) & set(weights):
        ours = length_controlled(weights[model], difficulty)
        gaps.append(abs(ours.win_rate - published[model]["length_controlled_winrate"]))
        if np.isfinite(published[model]["lc_standard_error"]) and model not in STALE_WEIGHTS:
            errors.append(abs(ours.standard_error - published[model]["lc_standard_error"]))
    assert (len(gaps), sum(gap < 1e-6 for gap in gaps)) == (199, 189)
    assert max(gaps) < 0.2
    assert len(errors) == 36 and max(errors) < 1e-9


def test_real_lc_rates_of_annotated_models():
    """From published weights to 1e-6; refitted from the annotations, with surrogate gamed rows, to 0.2 points."""
    models, difficulty, gamed = real()
    weights = alpaca_eval.weights()
    for model, (preference, length, published) in models.items():
        target = published["length_controlled_winrate"]
        exact = length_controlled(weights[model], difficulty).win_rate
        assert exact == pytest.approx(target, abs=STALE_WEIGHTS.get(model, 1e-6)), model
        refit = fit_length_controlled(preference, length, difficulty, gamed)
        assert refit.win_rate == pytest.approx(target, abs=0.2), model


def test_real_lc_interval_is_wider_than_the_published_error():
    """The leaderboard's error leaves out the judge and the fit; resampling prompts shows about twice as much."""
    models, difficulty, gamed = real()
    preference, length, published = models["FuseChat-Llama-3.1-8B-Instruct"]
    interval = length_controlled_interval(preference, length, difficulty, gamed, draws=400)
    assert interval.low < published["length_controlled_winrate"] < interval.high
    assert interval.half_width > 1.5 * 1.96 * published["lc_standard_error"]
