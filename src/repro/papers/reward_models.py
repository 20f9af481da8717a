"""p2's Bradley-Terry reward models on real human preferences, and what they must beat.

HH-RLHF's base splits are met in distribution (cross-fitted: each pair is judged by a model that saw none of its prompt) and off it
(trained on the online and rejection-sampled splits alone, or with safety pairs of PKU-SafeRLHF added). PKU-SafeRLHF's other
prompts and LLMBar are strangers. Beside them stand random guessing, the longer answer, and training on shuffled labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from repro.core.records import Record, record
from repro.core.settings import Section
from repro.core.statistics import Interval, difference_interval, mean_interval
from repro.data import Pair, hh_rlhf, llmbar, pku_saferlhf
from repro.data.schema import Turns
from repro.evaluate.preference import longer_baseline, pair_outcomes, random_baseline
from repro.papers import inputs
from repro.train.pairs import prompt_folds, sample_pairs, shuffle_labels
from repro.train.reward import EncodedTexts, RewardModel, encode_pairs, reward_model
from repro.train.reward_tokens import TokenRewardModel, finetuned_reward_model

HEAD = "head"  # the value of `trainable` that leaves the backbone frozen
HELPFUL, HARMLESS, PKU, NATURAL, ADVERSARIAL = (
    "helpful",
    "harmless",
    "PKU-SafeRLHF",
    "LLMBar natural",
    "LLMBar adversarial",
)
TESTS = (HELPFUL, HARMLESS, PKU, NATURAL, ADVERSARIAL)
BEYOND, SAFETY = "online and rejection-sampled", "PKU-SafeRLHF, other prompts"
OWN_SET, OTHER_SET, ALL_HH, OFF, OFF_SAFE, SHUFFLED, LONGER, RANDOM = (
    "trained on the same set",
    "trained on the other set",
    "trained on all of HH-RLHF",
    "trained off distribution",
    "the same with safety pairs",
    "shuffled labels",
    "pick the longer",
    "random",
)


def opening(turns: Turns) -> str:
    """How a conversation begins, without case and spacing: two that begin alike are one prompt to a reader."""
    return " ".join(turns[0][1].lower().split())


@dataclass(frozen=True)
class RealText:
    """Real preference pairs by set, the features of all their texts, and how many rows each source set aside."""

    pairs: dict[str, list[Pair]]
    encoded: EncodedTexts | None
    tallies: dict[str, dict]


def real_text(settings: Section) -> RealText:
    """Every pair of the study, read and encoded once.

    settings: `pairs_per_set` (None for all) and those of `encode_pairs`. Raises MissingInput without data or model.
    """
    sources = {name: inputs.pairs(name) for name in (hh_rlhf.NAME, pku_saferlhf.NAME, llmbar.NAME)}
    rows = {name: inputs.load_pairs(artifact / inputs.ROWS) for name, artifact in sources.items()}
    by_subset = {
        subset: [row for row in rows[hh_rlhf.NAME] if row.extras["subset"] == subset] for subset in hh_rlhf.SUBSETS
    }
    natural = [row.extras["subset"] == "llmbar-natural" for row in rows[llmbar.NAME]]
    begun = {opening(row.prompt) for row in rows[hh_rlhf.NAME]}
    safety = [row for row in rows[pku_saferlhf.NAME] if opening(row.prompt) not in begun]
    halves = prompt_folds([opening(row.prompt) for row in safety], 2, 0)
    found = {
        HELPFUL: by_subset["helpful-base"],
        HARMLESS: by_subset["harmless-base"],
        BEYOND: by_subset["helpful-online"] + by_subset["helpful-rejection-sampled"],
        PKU: [row for row, half in zip(safety, halves, strict=True) if half],
        SAFETY: [row for row, half in zip(safety, halves, strict=True) if not half],
        NATURAL: [row for row, yes in zip(rows[llmbar.NAME], natural, strict=True) if yes],
        ADVERSARIAL: [row for row, yes in zip(rows[llmbar.NAME], natural, strict=True) if not yes],
    }
    found = {name: sample_pairs(pairs, settings.pairs_per_set, 0) for name, pairs in found.items()}
    encoded = None  # a model trained through its tokens reads the texts themselves
    if settings.trainable == HEAD:
        encoded = encode_pairs([pair for pairs in found.values() for pair in pairs], settings)
    tallies = {name: inputs.tally(artifact) for name, artifact in sources.items()}
    shared = len(rows[pku_saferlhf.NAME]) - len(safety)
    tallies[pku_saferlhf.NAME]["rows"] -= shared
    tallies[pku_saferlhf.NAME]["set_aside"]["the prompt opens a conversation of hh-rlhf"] = shared
    return RealText(found, encoded, tallies)


def trained(
    pairs: Sequence[Pair], encoded: EncodedTexts | None, settings: Section, seed: int
) -> RewardModel | TokenRewardModel:
    """A reward model on the pairs, as `trainable` says: a head on frozen features, all weights, or the last layers."""
    if settings.trainable == HEAD:
        return reward_model(pairs, encoded, settings, seed)
    return TokenRewardModel(finetuned_reward_model(pairs, settings, seed), settings)


def _outcomes(model: RewardModel | TokenRewardModel, pairs: Sequence[Pair], text: RealText) -> np.ndarray:
    """1, 0 or 0.5 (a tie) for each pair: (pairs,)."""
    prompts = [pair.prompt for pair in pairs]
    sides = ([pair.chosen for pair in pairs], [pair.rejected for pair in pairs])
    return pair_outcomes(*(model.score(prompts, answers, text.encoded) for answers in sides))


def off_distribution(text: RealText, settings: Section, seed: int) -> RewardModel | TokenRewardModel:
    """The reward model that never saw the base splits: trained on online and rejection-sampled pairs."""
    return trained(text.pairs[BEYOND], text.encoded, settings, seed)


def _cross_fitted(
    text: RealText, tests: Sequence[str], always: Sequence[Pair], settings: Section, seed: int, shuffle: bool = False
) -> dict[str, np.ndarray]:
    """Outcomes by test set: pairs of `tests` out of fold, all other sets as the mean over the folds' models."""
    pool = [pair for name in tests for pair in text.pairs[name]]
    folds = prompt_folds([opening(pair.prompt) for pair in pool], settings.folds, seed)
    held, strangers = np.full(len(pool), np.nan), {name: [] for name in TESTS if name not in (HELPFUL, HARMLESS)}
    for fold in range(settings.folds):
        training = [pair for pair, f in zip(pool, folds, strict=True) if f != fold] + list(always)
        if shuffle:
            training = shuffle_labels(training, settings.folds * seed + fold)
        model = trained(training, text.encoded, settings, seed)
        held[folds == fold] = _outcomes(model, [pair for pair, f in zip(pool, folds, strict=True) if f == fold], text)
        for name, found in strangers.items():
            found.append(_outcomes(model, text.pairs[name], text))
    ends = np.cumsum([len(text.pairs[name]) for name in tests])
    result = dict(zip(tests, np.split(held, ends[:-1]), strict=True))
    return result | {name: np.mean(found, axis=0) for name, found in strangers.items()}


def outcomes(text: RealText, settings: Section, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """For one seed, by model and test set, each pair's outcome: (pairs,)."""
    off = off_distribution(text, settings, seed)
    safety = text.pairs[SAFETY]  # as many helpful pairs as there are safety pairs, so that neither drowns the other
    safe = trained(sample_pairs(text.pairs[BEYOND], len(safety), seed) + safety, text.encoded, settings, seed)
    own = {name: _cross_fitted(text, [name], [], settings, seed)[name] for name in (HELPFUL, HARMLESS)}
    both = (HELPFUL, HARMLESS)
    crossed = {test: trained(text.pairs[name], text.encoded, settings, seed) for name, test in (both, both[::-1])}
    return {
        OWN_SET: own,
        OTHER_SET: {test: _outcomes(model, text.pairs[test], text) for test, model in crossed.items()},
        ALL_HH: _cross_fitted(text, both, text.pairs[BEYOND], settings, seed),
        OFF: {name: _outcomes(off, text.pairs[name], text) for name in TESTS},
        OFF_SAFE: {name: _outcomes(safe, text.pairs[name], text) for name in TESTS},
        SHUFFLED: _cross_fitted(text, both, text.pairs[BEYOND], settings, seed, shuffle=True),
    }


@dataclass(frozen=True)
class Accuracies:
    """Outcomes by model and test set, (seeds, pairs) each, and their prompts."""

    outcomes: dict[str, dict[str, np.ndarray]]
    longer: dict[str, np.ndarray]
    prompts: dict[str, list[str]]
    seeds: tuple[int, ...]

    def interval(self, model: str, test: str) -> Interval:
        """Accuracy in percent over prompts and seeds."""
        return mean_interval(self.outcomes[model][test], groups=self.prompts[test]).scaled(100)

    def gain(self, model: str, other: str, test: str) -> Interval:
        """Difference of two models' accuracies in points, paired by pair and seed."""
        return self._gain(self.outcomes[model][test], self.outcomes[other][test], test)

    def gain_over_longer(self, model: str, test: str) -> Interval:
        """Points gained over picking the longer answer, paired by pair."""
        return self._gain(self.outcomes[model][test], np.tile(self.longer[test], (len(self.seeds), 1)), test)

    def _gain(self, first: np.ndarray, second: np.ndarray, test: str) -> Interval:
        return difference_interval(first, second, groups=self.prompts[test]).scaled(100)


def accuracies(text: RealText, settings: Section, seeds: Sequence[int]) -> Accuracies:
    """Train and judge every model for every seed."""
    by_seed = [outcomes(text, settings, seed) for seed in seeds]
    stacked = {
        model: {test: np.stack([found[model][test] for found in by_seed]) for test in tests}
        for model, tests in by_seed[0].items()
    }
    longer = {test: pair_outcomes(*_lengths(text.pairs[test])) for test in TESTS}
    prompts = {name: [opening(pair.prompt) for pair in text.pairs[name]] for name in TESTS}
    return Accuracies(stacked, longer, prompts, tuple(seeds))


def _lengths(pairs: Sequence[Pair]) -> tuple[list[int], list[int]]:
    """Characters of the chosen and of the rejected answers."""
    return [len(pair.chosen) for pair in pairs], [len(pair.rejected) for pair in pairs]


def accuracy_records(text: RealText, found: Accuracies) -> list[Record]:
    """Accuracy of every model and null baseline on every test set, percent."""
    id = "p2_02.accuracy"
    rows = [
        record(id, model, test, found.interval(model, test), unit="%", seeds=found.seeds)
        for model, tests in found.outcomes.items()
        for test in TESTS
        if test in tests
    ]
    for test in TESTS:
        longer = longer_baseline(*_lengths(text.pairs[test]), groups=found.prompts[test])
        rows.append(record(id, LONGER, test, longer.scaled(100), unit="%"))
        rows.append(record(id, RANDOM, test, random_baseline(len(text.pairs[test])).scaled(100), unit="%"))
    return rows


def over_longer_records(found: Accuracies) -> list[Record]:
    """Points that every trained model gains over picking the longer answer, paired; shuffled labels among them."""
    return [
        record("p2_02.over_longer", model, test, found.gain_over_longer(model, test), unit="points", seeds=found.seeds)
        for model, tests in found.outcomes.items()
        for test in TESTS
        if test in tests
    ]


def _trained_part(settings: Section) -> str:
    """What of the model learns, in words."""
    if settings.trainable == HEAD:
        return f"frozen, first {settings.layers or 'all'} layers, {settings.head} head"
    return "trained whole" if settings.trainable == "all" else f"last {settings.trainable} layers trained"


def hyperparameters(settings: Section) -> dict[str, object]:
    """What p2.bt lists, as it is here."""
    return {
        "base": f"{settings.model}; {_trained_part(settings)}",
        "epochs": settings.epochs,
        "lr": settings.learning_rate,
        "schedule": "cosine",
        "warmup_ratio": settings.warmup_ratio,
        "global_batch": settings.batch_size,
    }


def learning_curve(text: RealText, settings: Section, seeds: Sequence[int]) -> list[Record]:
    """Accuracy on a held-out fold against the number of training pairs of the same set; percent."""
    results: dict[tuple[str, int], list[tuple[np.ndarray, list[str]]]] = {}
    for seed in seeds:
        for name in (HELPFUL, HARMLESS):
            folds = prompt_folds([opening(pair.prompt) for pair in text.pairs[name]], settings.folds, seed)
            training, held = (
                [pair for pair, fold in zip(text.pairs[name], folds, strict=True) if (fold == 0) == out]
                for out in (False, True)
            )
            # folds differ by some pairs, and every seed needs the same sizes: a little under what a fold leaves
            most = int(0.97 * len(text.pairs[name]) * (settings.folds - 1) / settings.folds) // 10 * 10
            for size in [size for size in settings.curve if size < most] + [most]:
                model = trained(sample_pairs(training, size, seed), text.encoded, settings, seed)
                found = _outcomes(model, held, text), [opening(pair.prompt) for pair in held]
                results.setdefault((name, size), []).append(found)
    return [
        record("p2_02.learning_curve", name, str(size), _pooled(found).scaled(100), unit="%", seeds=seeds)
        for (name, size), found in results.items()
    ]


def reading_of(curve: Sequence[Record]) -> str:
    """What the curve's last doubling says, in one sentence: points gained from about half the pairs to all of them."""
    parts = []
    for name in dict.fromkeys(row.row for row in curve):
        line = sorted(((int(row.column), row) for row in curve if row.row == name), key=lambda place: place[0])
        (half, before), (most, after) = line[-2], line[-1]
        width = max(before.interval.half_width, after.interval.half_width)
        parts.append(f"{after.value - before.value:+.1f} from {half:,} to {most:,} {name} pairs (bands ±{width:.1f})")
    return "; ".join(parts).replace("-", "\N{MINUS SIGN}")


def _pooled(found: list[tuple[np.ndarray, list[str]]]) -> Interval:
    """Mean over seeds whose test pairs differ: a seed leaves nan where it held nothing out."""
    prompts = sorted({prompt for _, ids in found for prompt in ids})
    place = {prompt: index for index, prompt in enumerate(prompts)}
    matrix = np.full((len(found), len(prompts)), np.nan)
    for row, (outcome, ids) in enumerate(found):
        labels = np.array([place[prompt] for prompt in ids])
        total, count = np.bincount(labels, outcome, len(prompts)), np.bincount(labels, minlength=len(prompts))
        matrix[row] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return mean_interval(matrix)
