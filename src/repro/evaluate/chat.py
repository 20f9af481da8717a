"""Chat benchmarks: win rate against a baseline, raw and length-controlled, and the score of two turns (p2.table3).

The judge's preference for a prompt is the probability that our answer beats the baseline's, both orders averaged. The
length-controlled rate is AlpacaEval 2's (Dubois et al. 2404.04475), refitted by `evaluate.alpacaeval`. Its second
ingredient, how hard an instruction is, was fitted there over the leaderboard's models; here it comes from the models compared.
"""

from collections.abc import Mapping
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from repro.core.errors import DataError
from repro.core.statistics import Interval, mean_interval
from repro.evaluate.alpacaeval import (
    PERCENT,
    fit_length_controlled,
    length_controlled_interval,
    length_term,
)

LARGEST_SCORE = 10.0


@dataclass(frozen=True)
class TwoTurn:
    """Mean score over both turns, that of each turn, and how many ratings were missing; in [1, 10], n counts prompts."""

    both: Interval
    first: Interval
    second: Interval
    missing: int


def _preferences(values: ArrayLike) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or ((values < 0) | (values > 1)).any():
        raise DataError("preferences must be one row of probabilities from 0 to 1", where="chat")
    return values


def win_rate(preferences: ArrayLike, *, seed: int = 0) -> Interval:
    """Win rate in percent, a tie (0.5) as half a win, with its 95% bootstrap interval over prompts (p2.table3).

    preferences: (prompts,) probability that ours beats the baseline, nan where the judge gave none: left out. Raises
    DataError for a value outside [0, 1], or if none is left.
    """
    return mean_interval(_preferences(preferences), seed=seed).scaled(PERCENT)


def instruction_difficulty(preferences: ArrayLike, terms: ArrayLike) -> np.ndarray:
    """How much each instruction favours whoever meets the baseline on it: gamma_x of 2404.04475, eq. 2, (prompts,).

    preferences, terms: (models, prompts), the judge's preferences and `length_term`s. One joint regression of
    P(win) = sigmoid(theta_m + phi_m term + gamma_x), with a penalty of half the sum of squares, which ends what a prompt
    that all win would start. Raises DataError if the shapes differ.
    """
    from scipy import sparse
    from sklearn.linear_model import LogisticRegression

    wins, terms = np.atleast_2d(np.asarray(preferences, float)), np.atleast_2d(np.asarray(terms, float))
    if wins.shape != terms.shape:
        raise DataError(f"shapes {wins.shape} and {terms.shape}", where="instruction_difficulty")
    models, prompts = wins.shape
    model, prompt = np.indices(wins.shape).reshape(2, -1)
    each = sparse.identity(models, format="csr")[model]
    own = sparse.identity(prompts, format="csr")[prompt]
    design = sparse.hstack([own, each, each.multiply(terms.reshape(-1, 1))], format="csr")
    seen = np.isfinite(wins.ravel())
    design, wins = design[seen], wins.ravel()[seen]
    label, weight = np.repeat([1, 0], len(wins)), np.concatenate([wins, 1 - wins])  # a soft label as two weighted rows
    regression = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-8, max_iter=1000)
    regression.fit(sparse.vstack([design, design]), label, sample_weight=weight)
    return regression.coef_[0, :prompts]


def length_controlled_win_rates(
    preferences: Mapping[str, ArrayLike],
    lengths: Mapping[str, ArrayLike],
    baseline_lengths: ArrayLike,
    *,
    seed: int = 0,
    draws: int = 1000,
) -> dict[str, Interval]:
    """Win rate in percent that each model would have with answers as long as the baseline's, 95% interval (p2.table3).

    preferences: by model, (prompts,) as in `win_rate`; lengths, baseline_lengths: (prompts,) characters. The interval
    resamples prompts and refits the model's weights each time. The difficulty that a model is fitted with comes from
    the other models, as a new model on the leaderboard meets what older ones left: from its own wins it would
    explain them by themselves. One model alone has difficulty 0. A model whose lengths all equal the
    baseline's has its raw rate. Raises DataError if names or shapes differ, or a model's length differences are all equal.
    """
    rates = {}
    for name, columns in _regressions(preferences, lengths, baseline_lengths).items():
        if columns is None:
            rates[name] = win_rate(preferences[name], seed=seed)
            continue
        order = np.lexsort(columns[[2, 0, 1]])  # folds go by place; sorted, the rate is the same in any order
        rates[name] = length_controlled_interval(*columns[:, order], seed=seed, draws=draws)
    return rates


def length_controlled_values(
    preferences: Mapping[str, ArrayLike], lengths: Mapping[str, ArrayLike], baseline_lengths: ArrayLike
) -> dict[str, np.ndarray]:
    """What each prompt says of each model's length-controlled rate, in percent, (prompts,): its mean is that rate (p2.table2).

    A prompt enters twice, by its own prediction and by the weights that it moves; here to first order, the infinitesimal
    jackknife of Efron & Tibshirani 1993, ch. 22. So rates of several seeds can be averaged and two models' rates
    compared prompt by prompt, as raw rates are. Arguments as `length_controlled_win_rates`, whose rate it is; raises
    DataError too if a preference is missing.
    """
    values = {}
    for name, columns in _regressions(preferences, lengths, baseline_lengths).items():
        own = _preferences(preferences[name])
        if np.isnan(own).any():
            raise DataError(f"{name} has no preference on some prompts", where="length_controlled_values")
        values[name] = PERCENT * (own if columns is None else _influences(columns))
    return values


def _influences(columns: np.ndarray) -> np.ndarray:
    """The rate that a regression on `columns` gives, plus n times its derivative by each prompt's weight, (prompts,).

    The penalty shapes the weights but not how they move: held at its kink, a weight that it sets to zero would not move
    at all, and a rate that nobody knows would have no error.
    """
    order = np.lexsort(columns[[2, 0, 1]])
    weights = np.array(astuple(fit_length_controlled(*columns[:, order]).weights))
    features, wins = np.column_stack([columns[1], columns[2], np.ones(columns.shape[1])]), columns[0] - 1
    likely, equal = expit(features @ weights), expit(features[:, 1:] @ weights[1:])
    curvature = (features * (likely * (1 - likely))[:, None]).T @ features
    slope = np.array([0.0, *(features[:, 1:] * (equal * (1 - equal))[:, None]).mean(0)])
    # the least squares of the two: a difficulty of 0 throughout, of one model alone, leaves a direction without curvature
    moved = features @ np.linalg.lstsq(curvature, slope, rcond=None)[0] * (wins - likely)
    return equal + len(wins) * (moved - moved.mean())  # resampling keeps the number of prompts


def _regressions(
    preferences: Mapping[str, ArrayLike], lengths: Mapping[str, ArrayLike], baseline_lengths: ArrayLike
) -> dict[str, np.ndarray | None]:
    """By model 1 + preference, length term and difficulty, (3, prompts); None where all lengths equal the baseline's."""
    if set(preferences) != set(lengths):
        raise DataError("preferences and lengths name different models", where="length_controlled_win_rates")
    wins = {name: _preferences(values) for name, values in preferences.items()}
    baseline = np.asarray(baseline_lengths, dtype=float)
    if any(values.shape != baseline.shape for values in wins.values()):
        raise DataError("each model needs one preference a prompt", where="length_controlled_win_rates")
    same = {name for name in wins if np.array_equal(baseline, np.asarray(lengths[name], dtype=float))}
    terms = {name: np.zeros(len(baseline)) if name in same else length_term(baseline, lengths[name]) for name in wins}
    found: dict[str, np.ndarray | None] = {}
    for name, own in wins.items():
        others = [other for other in wins if other != name]
        difficulty = np.zeros(len(baseline))
        if others and name not in same:
            difficulty = instruction_difficulty([wins[o] for o in others], [terms[o] for o in others])
        found[name] = None if name in same else np.array([1 + own, terms[name], difficulty])
    return found


def two_turn_score(first_scores: ArrayLike, second_scores: ArrayLike, *, seed: int = 0) -> TwoTurn:
    """MT-Bench's score: mean of all ratings of both turns, and each turn's own, 95% intervals over prompts (p2.table3).

    first_scores, second_scores: (prompts,) ratings in [1, 10]; nan or -1 where the judge gave none: left out and counted.
    Raises DataError if the shapes differ, a rating is out of range, or a turn has none.
    """
    first, second = np.asarray(first_scores, dtype=float), np.asarray(second_scores, dtype=float)
    if first.ndim != 1 or first.shape != second.shape:
        raise DataError(f"ratings of shapes {first.shape} and {second.shape}", where="two_turn_score")
    scores = np.array([first, second])
    scores[scores == -1] = np.nan
    if ((scores < 1) | (scores > LARGEST_SCORE)).any():
        raise DataError("a rating is outside 1 to 10", where="two_turn_score", fix="-1 or nan where there is none")
    groups = np.tile(np.arange(scores.shape[1]), 2)  # a prompt's two ratings are drawn together
    both = mean_interval(scores.ravel(), groups=groups, seed=seed)
    turns = [mean_interval(turn, seed=seed) for turn in scores]
    return TwoTurn(both, *turns, missing=int(np.isnan(scores).sum()))
