"""AlpacaEval 2: win rate, and the win rate a model would have if its answers were as long as the baseline's (p2.table2).

Each of 805 answers meets the baseline's answer; the judge's `preference` runs from 1 (baseline wins) to 2 (model wins).
The length-controlled (LC) rate fits P(model wins) = sigmoid(a tanh(d / sd(d)) + b difficulty + c), with d the
baseline's length in characters minus the model's, and averages it over the prompts at d = 0 (Dubois et al. 2404.04475;
terms, solver, folds and weights as in tatsu-lab/alpaca_eval, metrics/glm_winrate.py).
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from repro.core.errors import DataError
from repro.core.statistics import Interval, mean_interval
from repro.data.alpaca_eval import Weights

PERCENT = 100.0
GAMED_WEIGHT = 0.2  # of all gamed baselines together; real rows have weight 1
FOLDS = 5
NEWTON_STEPS = 60
HALVINGS = 20
SMOOTH = 0.01  # |w| becomes sqrt(w^2 + SMOOTH^2) in the bootstrap's refits, so that Newton's method applies


@dataclass(frozen=True)
class WinRate:
    """Win rate with its standard error, and counting whole wins with a draw as half: all in percent; and the counts."""

    win_rate: float
    standard_error: float
    discrete_win_rate: float
    wins: int
    losses: int
    draws: int

    @property
    def n(self) -> int:
        return self.wins + self.losses + self.draws


@dataclass(frozen=True)
class LengthControlled:
    """LC win rate and standard error in percent, the weights it follows from, and 1 / penalty if they were fitted here.

    The standard error is that of the mean prediction over prompts, as the leaderboard prints it: it leaves out
    the judge's noise and the weights' own uncertainty. `length_controlled_interval` has both.
    """

    win_rate: float
    standard_error: float
    weights: Weights
    inverse_penalty: float | None = None


class GamedBaseline(NamedTuple):
    """Rows of the baseline prompted to be longer or shorter, which pull the length coefficient to a common value.

    length, difficulty, preference: (prompts,) each; preference is P(gamed baseline wins) in [0, 1].
    """

    length: np.ndarray
    difficulty: np.ndarray
    preference: np.ndarray


def model_wins(preference: ArrayLike) -> np.ndarray:
    """P(model wins) in [0, 1] from the annotations' preference, nan where the judge gave none: (prompts,).

    preference: 1 (baseline wins) to 2 (model wins), 0 for a draw. Raises DataError outside that.
    """
    preference = np.asarray(preference, dtype=float)
    preference = np.where(preference == 0, 1.5, preference)
    if preference.ndim != 1 or ((preference < 1) | (preference > 2)).any() or not np.isfinite(preference).any():
        raise DataError("preferences must be one row of numbers from 1 to 2", where="alpacaeval")
    return preference - 1


def win_rate(preference: ArrayLike) -> WinRate:
    """Win rate, standard error and discrete win rate from the judge's annotations (p2.table2, p3.fig3).

    preference: (prompts,) in 1 .. 2, nan where the judge gave none: left out. Raises DataError as `model_wins`, and
    if fewer than two are left.
    """
    wins = model_wins(preference)
    wins = wins[np.isfinite(wins)]
    if len(wins) < 2:
        raise DataError("a standard error needs at least two preferences", where="win_rate")
    won, lost = int((wins > 0.5).sum()), int((wins < 0.5).sum())
    drawn = len(wins) - won - lost
    error = wins.std(ddof=1) / np.sqrt(len(wins))
    discrete = (won + drawn / 2) / len(wins)
    return WinRate(PERCENT * float(wins.mean()), PERCENT * float(error), PERCENT * discrete, won, lost, drawn)


def win_rate_interval(preference: ArrayLike, seed: int = 0) -> Interval:
    """Win rate in percent with its 95% bootstrap interval over prompts. Arguments and errors as `win_rate`."""
    return mean_interval(model_wins(preference), seed=seed).scaled(PERCENT)


def length_term(baseline_lengths: ArrayLike, model_lengths: ArrayLike) -> np.ndarray:
    """tanh of (baseline's length - model's) in standard deviations of itself, not centred: (prompts,).

    lengths: (prompts,) characters. Negative where the model is the longer. Raises DataError if the shapes differ or
    every difference is the same.
    """
    baseline, model = np.asarray(baseline_lengths, dtype=float), np.asarray(model_lengths, dtype=float)
    if baseline.shape != model.shape or baseline.ndim != 1:
        raise DataError(f"lengths of shapes {baseline.shape} and {model.shape}", where="length_term")
    difference = baseline - model
    if len(difference) < 2 or np.ptp(difference) == 0:
        raise DataError("all length differences are equal", where="length_term", fix="is this the baseline itself?")
    return np.tanh(difference / difference.std(ddof=1))


def length_controlled(weights: Weights, difficulty: ArrayLike) -> LengthControlled:
    """LC win rate from the weights alone: the mean of sigmoid(b difficulty + c), since no difference leaves tanh 0.

    weights: as the leaderboard publishes them; difficulty: (prompts,). Raises DataError if difficulty is not one row.
    """
    difficulty = np.asarray(difficulty, dtype=float)
    if difficulty.ndim != 1 or len(difficulty) < 2 or not np.isfinite(difficulty).all():
        raise DataError("difficulty must be one row of finite numbers", where="length_controlled")
    wins = expit(weights.difficulty * difficulty + weights.constant)
    error = wins.std(ddof=1) / np.sqrt(len(wins))
    return LengthControlled(PERCENT * float(wins.mean()), PERCENT * float(error), weights)


def gamed_baseline(
    weights: Weights, baseline_lengths: ArrayLike, gamed_lengths: ArrayLike, difficulty: ArrayLike
) -> GamedBaseline:
    """A gamed baseline's rows with preferences that its published weights predict, in place of the judge's.

    The judge's own are on the hub only (df_gamed.csv); lengths and weights are in the public repository. Arguments and
    errors as in `length_term` and `length_controlled`.
    """
    length = length_term(baseline_lengths, gamed_lengths)
    difficulty = np.asarray(difficulty, dtype=float)
    if difficulty.shape != length.shape:
        raise DataError(f"{difficulty.size} difficulties for {length.size} lengths", where="gamed_baseline")
    wins = expit(weights.length * length + weights.difficulty * difficulty + weights.constant)
    return GamedBaseline(length, difficulty, wins)


class _Rows(NamedTuple):
    """Design: features (rows, 3), labels in [0, 1], weights, and how many rows at the end are the model's own."""

    features: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    own: int


def _rows(preference: ArrayLike, length: ArrayLike, difficulty: ArrayLike, gamed: Sequence[GamedBaseline]) -> _Rows:
    """Gamed rows first, without the model's own term and at a share of GAMED_WEIGHT; rows without preference dropped."""
    wins, length, difficulty = (
        model_wins(preference),
        np.asarray(length, dtype=float),
        np.asarray(difficulty, dtype=float),
    )
    if not wins.shape == length.shape == difficulty.shape:
        raise DataError(f"shapes {wins.shape}, {length.shape}, {difficulty.shape}", where="fit_length_controlled")
    kept = np.isfinite(wins)
    blocks = [np.column_stack([rows.length, rows.difficulty, np.zeros(len(rows.length))]) for rows in gamed]
    blocks.append(np.column_stack([length, difficulty, np.ones(len(wins))])[kept])
    labels = np.concatenate([*(rows.preference for rows in gamed), wins[kept]])
    weights = np.ones(len(labels))
    if gamed:
        weights[: -kept.sum()] = GAMED_WEIGHT / len(gamed)
    return _Rows(np.concatenate(blocks), labels, weights, int(kept.sum()))


def _soft_log_loss(label: np.ndarray, predicted: np.ndarray, share: np.ndarray, weight: np.ndarray) -> float:
    """Weighted log loss of a soft label, given as the share of the row's copy that carries this hard label."""
    soft = np.where(label == 1, share, 1 - share)
    predicted = np.clip(predicted, 1e-15, 1 - 1e-15)
    return -float(np.mean(weight * (soft * np.log(predicted) + (1 - soft) * np.log(1 - predicted))))


def fit_length_controlled(
    preference: ArrayLike, length: ArrayLike, difficulty: ArrayLike, gamed: Sequence[GamedBaseline] = ()
) -> LengthControlled:
    """LC win rate from one model's annotations: refits the three weights (p2.table2).

    preference: (prompts,) in 1 .. 2; length: (prompts,) from `length_term`; difficulty: (prompts,); gamed: the baselines
    that steady the length weight. L1-penalised logistic regression without intercept, penalty by 5-fold log loss; a
    soft label is a row twice, once with each hard label. Raises DataError if shapes differ.
    """
    import sklearn
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.metrics import make_scorer
    from sklearn.model_selection import GroupKFold

    rows = _rows(preference, length, difficulty, gamed)
    count = len(rows.labels)
    label, share = np.repeat([1, 0], count), np.concatenate([rows.labels, 1 - rows.labels])
    weight, row = np.tile(rows.weights, 2), np.tile(np.arange(count), 2)
    with sklearn.config_context(enable_metadata_routing=True):
        scorer = make_scorer(_soft_log_loss, response_method="predict_proba", greater_is_better=False)
        model = LogisticRegressionCV(
            cv=GroupKFold(FOLDS),
            scoring=scorer.set_score_request(share=True, weight=True),
            l1_ratios=(1,),
            solver="liblinear",
            fit_intercept=False,
            random_state=123,
            use_legacy_attributes=False,
        ).set_fit_request(sample_weight=True)
        features = np.tile(rows.features, (2, 1))
        model.fit(features, label, sample_weight=share * weight, groups=row, share=share, weight=weight)
    result = length_controlled(Weights(*model.coef_[0].tolist()), difficulty)
    return LengthControlled(result.win_rate, result.standard_error, result.weights, float(model.C_))


def _objective(rows: _Rows, weights: np.ndarray, inverse_penalty: float, solution: np.ndarray) -> np.ndarray:
    """What the refit makes small, for each draw: the smoothed |w|_1 + C sum of weight x soft log loss."""
    margin = solution @ rows.features.T
    loss = (weights * (np.logaddexp(0, margin) - rows.labels * margin)).sum(axis=1)
    return np.sqrt(solution**2 + SMOOTH**2).sum(axis=1) + inverse_penalty * loss


def _refit(rows: _Rows, weights: np.ndarray, inverse_penalty: float, start: Weights) -> np.ndarray:
    """The same regression at a fixed penalty by Newton's method, for many row weights at once: (draws, 3).

    A step that climbs is halved: a whole one can jump to and fro over the kink of |w| for ever.
    """
    features, outer = rows.features, np.einsum("ri,rj->rij", rows.features, rows.features).reshape(-1, 9)
    solution = np.tile(np.array(astuple(start)), (len(weights), 1))
    for _ in range(NEWTON_STEPS):
        predicted = expit(solution @ features.T)
        size = np.sqrt(solution**2 + SMOOTH**2)
        slope = solution / size + inverse_penalty * (weights * (predicted - rows.labels)) @ features
        curvature = inverse_penalty * ((weights * predicted * (1 - predicted)) @ outer).reshape(-1, 3, 3)
        curvature[:, range(3), range(3)] += SMOOTH**2 / size**3
        step = np.linalg.solve(curvature, slope[:, :, None])[:, :, 0]
        now = _objective(rows, weights, inverse_penalty, solution)
        for _ in range(HALVINGS):
            climbs = _objective(rows, weights, inverse_penalty, solution - step) > now + 1e-10 * np.abs(now)
            step[climbs] /= 2
            if not climbs.any():
                break
        solution -= step
        if np.abs(step).max() < 1e-8:
            return solution
    raise DataError(
        "the refit did not converge", where="length_controlled_interval", fix="fewer terms, or more prompts"
    )


def length_controlled_interval(
    preference: ArrayLike,
    length: ArrayLike,
    difficulty: ArrayLike,
    gamed: Sequence[GamedBaseline] = (),
    *,
    seed: int = 0,
    draws: int = 1000,
) -> Interval:
    """Refitted LC win rate in percent with its 95% interval: prompts resampled and the weights refitted each time.

    Arguments as `fit_length_controlled`. The penalty and the length's scale stay as fitted; the gamed rows are
    not resampled. Raises DataError if shapes differ or a refit does not converge.
    """
    fitted = fit_length_controlled(preference, length, difficulty, gamed)
    rows, rng = _rows(preference, length, difficulty, gamed), np.random.default_rng(seed)
    own = slice(len(rows.labels) - rows.own, None)
    rates = []
    for start in range(0, draws, 100):  # a hundred at a time keeps the weight matrix small
        counts = rng.multinomial(rows.own, np.full(rows.own, 1 / rows.own), size=min(100, draws - start))
        weights = np.tile(rows.weights, (len(counts), 1))
        weights[:, own] = counts
        refits = _refit(rows, weights, fitted.inverse_penalty, fitted.weights)
        wins = expit(refits[:, 1:] @ rows.features[own, 1:].T)
        rates.append((counts * wins).sum(axis=1) / rows.own)
    low, high = np.quantile(PERCENT * np.concatenate(rates), [0.025, 0.975])
    return Interval(fitted.win_rate, float(low), float(high), rows.own)
