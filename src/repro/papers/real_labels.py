"""p1.table2's contrast on real text: labels of a judge on all pairs against people's labels on the pairs they agree on.

PandaLM's pairs carry both. GPT-3.5's verdict stands for the judge of step 3, three people for the reviewers of step 4.
What RM-Step3 and RM-Step4 differ by is taken apart: number of pairs, which pairs, whose labels. Tested on prompts that no
model saw (cross-fitted, the people's majority as truth) and on strangers: HH-RLHF's helpful pairs, LLMBar's natural ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from repro.core import inventory
from repro.core.errors import DataError, MissingInput
from repro.core.progress import note
from repro.core.records import Record, record
from repro.core.settings import Section
from repro.core.statistics import LEVEL, Interval, difference_interval, mean_interval
from repro.data import Loaded, Pair, hh_rlhf, llmbar, pandalm
from repro.data.pandalm import GPT, Comparison
from repro.evaluate.preference import longer_baseline, pair_outcomes, random_baseline
from repro.papers.reward_models import LONGER, RANDOM, SHUFFLED, opening
from repro.train.pairs import prompt_folds, sample_pairs, shuffle_labels
from repro.train.reward import EncodedTexts, RewardModel, encode_pairs, reward_model

STEP3, STEP4 = "RM-Step3: the judge's labels, all pairs", "RM-Step4: people's labels, pairs they agree on"
PART, SELECTED = "the judge's labels, a random part as large", "the judge's labels, pairs people agree on"
PEOPLE = "people's majority, all pairs"
ARMS = (STEP3, STEP4, PART, SELECTED, PEOPLE, SHUFFLED)
PANDALM, HELPFUL, NATURAL = "PandaLM, unseen prompts", "HH-RLHF helpful", "LLMBar natural"
TESTS = (PANDALM, HELPFUL, NATURAL)
CONTRASTS = {
    "step 4 less step 3": (STEP4, STEP3),
    "number: a random part less all": (PART, STEP3),
    "selection: agreed pairs less a random part": (SELECTED, PART),
    "labels: people's less the judge's, agreed pairs": (STEP4, SELECTED),
    "labels: people's less the judge's, all pairs": (PEOPLE, STEP3),
    "step 3 less shuffled labels": (STEP3, SHUFFLED),
}
POWER = 0.8
AGAINST = "people agree, against the judge"
NOT_HERE = "(not at hand)"


@dataclass(frozen=True)
class Labelled:
    """Comparisons that the judge decided, test pairs by set (the truth chosen), all texts' features, and tallies."""

    comparisons: list[Comparison]
    tests: dict[str, list[Pair]]
    encoded: EncodedTexts
    tallies: dict[str, dict]

    def prompts(self, test: str) -> list[str]:
        """The prompt of each test pair, as a reader would tell them apart."""
        return [opening(pair.prompt) for pair in self.tests[test]]


def labelled(settings: Section, encoder: Section) -> Labelled:
    """PandaLM's comparisons and the test pairs, encoded; prompts that a test set shares with PandaLM are set aside there.

    settings: `real_pairs`, `real_test_pairs` (None for all); encoder: section p2_02_reward_models. Raises MissingInput
    without the data or the encoder.
    """
    loaded = pandalm.load()
    rows = sample_pairs(loaded.rows, settings.real_pairs, 0)
    decided = [each for each in rows if each.judges[GPT]]
    tests = {PANDALM: [each.pair(each.majority) for each in rows if each.majority]}
    train, test = len(decided), len(tests[PANDALM])
    tallies = {
        pandalm.NAME: _tally(loaded, len(rows), {}),
        f"{pandalm.NAME}, to train": _tally(None, train, {f"{GPT} names no better answer": len(rows) - train}),
        f"{pandalm.NAME}, to test": _tally(None, test, {"most people name no better answer": len(rows) - test}),
    }
    begun = {opening(each.prompt) for each in loaded.rows}
    strangers = {HELPFUL: hh_rlhf.load(subsets=["helpful-base"]), NATURAL: llmbar.load(subsets=["llmbar-natural"])}
    for name, found in strangers.items():
        other = [pair for pair in found.rows if opening(pair.prompt) not in begun]
        tests[name] = sample_pairs(other, settings.real_test_pairs, 0)
        shared = {"the prompt is PandaLM's too": len(found.rows) - len(other)}
        tallies[name] = _tally(found, len(tests[name]), shared)
    every = [each.pair(1) for each in rows] + [pair for pairs in tests.values() for pair in pairs]
    return Labelled(decided, tests, encode_pairs(every, encoder), tallies)


def at_hand(settings: Section, encoder: Section) -> Labelled | None:
    """What `labelled` gives, or None with a note where data or encoder are not on this machine."""
    try:
        return labelled(settings, encoder)
    except MissingInput as problem:
        note(f"{problem.where}: {problem.what}; the contrast on real labels is left out")
        return None


def _tally(loaded: Loaded | None, used: int, aside: dict[str, int]) -> dict:
    """Rows used, and set aside by the adapter, by the study, and because a part was drawn."""
    if loaded is not None:
        aside = {str(reason): count for reason, count in loaded.counts().most_common()} | aside
        undrawn = len(loaded.rows) - used - aside.get("the prompt is PandaLM's too", 0)
        aside |= {"not drawn": undrawn} if undrawn else {}
    return {"rows": used, "set_aside": aside}


def review(found: Labelled) -> list[Record]:
    """Step 4 on real pairs that a judge decided: how often people differ, tie or contradict it; percent, over prompts."""
    rows, id = found.comparisons, "p1_02.real_review"
    groups = [opening(each.prompt) for each in rows]
    agreed = np.array([each.unanimous for each in rows])
    same = np.array([each.people[0] == each.judges[GPT] for each in rows], dtype=float)
    parts = {
        "people differ or tie": ~agreed,
        "people agree, with the judge": agreed & (same == 1),
        AGAINST: agreed & (same == 0),
    }
    shares = {name: mean_interval(part, groups=groups).scaled(100) for name, part in parts.items()}
    rows = [record(id, name, "pairs (%)", share) for name, share in shares.items()]
    loss = inventory.published("p1.fig3")["step4_loss"]["value"]
    return [record(id, "the paper: step 4 drops", "pairs (%)", 100 * loss), *rows]


def training_sets(comparisons: Sequence[Comparison], seed: int) -> dict[str, list[Pair]]:
    """The pairs of each arm, made from the same comparisons.

    Raises DataError if people agree on none.
    """
    judged = [each.pair(each.judges[GPT]) for each in comparisons]
    agreed = [place for place, each in enumerate(comparisons) if each.unanimous]
    if not agreed:
        raise DataError("people agree on no pair", where="training_sets", fix="use more comparisons")
    return {
        STEP3: judged,
        STEP4: [comparisons[place].pair(comparisons[place].people[0]) for place in agreed],
        PART: sample_pairs(judged, len(agreed), seed),
        SELECTED: [judged[place] for place in agreed],
        PEOPLE: [each.pair(each.majority) for each in comparisons if each.majority],
        SHUFFLED: shuffle_labels(judged, seed),
    }


def _outcomes(model: RewardModel, pairs: Sequence[Pair], encoded: EncodedTexts) -> np.ndarray:
    prompts = [pair.prompt for pair in pairs]
    sides = ([pair.chosen for pair in pairs], [pair.rejected for pair in pairs])
    return pair_outcomes(*(model.score(prompts, side, encoded) for side in sides))


def outcomes(found: Labelled, encoder: Section, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """One seed's outcomes by arm and test set, (pairs,) each: out of fold on PandaLM, elsewhere the folds' mean."""
    names, asked = found.prompts(PANDALM), [opening(each.prompt) for each in found.comparisons]
    distinct = sorted({*names, *asked})
    fold_of = dict(zip(distinct, prompt_folds(distinct, encoder.folds, seed), strict=True))
    results = {arm: {test: [] for test in TESTS} for arm in ARMS}
    for fold in range(encoder.folds):
        seen = [each for each, name in zip(found.comparisons, asked, strict=True) if fold_of[name] != fold]
        for arm, pairs in training_sets(seen, encoder.folds * seed + fold).items():
            model = reward_model(pairs, found.encoded, encoder, seed)
            for test in TESTS:
                results[arm][test].append(_outcomes(model, found.tests[test], found.encoded))
    own = np.array([fold_of[name] for name in names])
    return {
        arm: {
            test: np.array(each)[own, np.arange(len(own))] if test == PANDALM else np.mean(each, axis=0)
            for test, each in tests.items()
        }
        for arm, tests in results.items()
    }


@dataclass(frozen=True)
class Contrast:
    """Outcomes by arm and test set, (seeds, pairs) each, and the pairs' prompts."""

    outcomes: dict[str, dict[str, np.ndarray]]
    prompts: dict[str, list[str]]
    seeds: tuple[int, ...]

    def interval(self, arm: str, test: str) -> Interval:
        """Accuracy in percent over prompts and seeds."""
        return mean_interval(self.outcomes[arm][test], groups=self.prompts[test]).scaled(100)

    def gain(self, contrast: str, test: str) -> Interval:
        """Points of the first arm of a contrast over the second, paired by pair and seed."""
        first, second = (self.outcomes[arm][test] for arm in CONTRASTS[contrast])
        return difference_interval(first, second, groups=self.prompts[test]).scaled(100)

    def spread(self, contrast: str, test: str) -> tuple[float, float]:
        """Standard deviation of a prompt's paired difference (mean over seeds and its pairs), and of a seed's mean; points.

        The second is nan for one seed.
        """
        first, second = (self.outcomes[arm][test] for arm in CONTRASTS[contrast])
        gap = 100 * (first - second)
        labels = np.unique(self.prompts[test], return_inverse=True)[1]
        by_prompt = np.bincount(labels, gap.mean(0)) / np.bincount(labels)
        seeds = gap.mean(1)
        return float(by_prompt.std(ddof=1)), float(seeds.std(ddof=1)) if len(seeds) > 1 else float("nan")

    def gain_over_longer(self, arm: str, test: str, longer: np.ndarray) -> Interval:
        """Points of an arm over picking the longer answer, (pairs,) of outcomes, paired by pair."""
        other = np.tile(longer, (len(self.seeds), 1))
        return difference_interval(self.outcomes[arm][test], other, groups=self.prompts[test]).scaled(100)


def contrast(found: Labelled, encoder: Section, seeds: Sequence[int]) -> Contrast:
    """Train and judge every arm for every seed."""
    by_seed = [outcomes(found, encoder, seed) for seed in seeds]
    stacked = {arm: {test: np.stack([each[arm][test] for each in by_seed]) for test in TESTS} for arm in ARMS}
    return Contrast(stacked, {test: found.prompts(test) for test in TESTS}, tuple(seeds))


def needed(deviation: float, effect: float) -> int:
    """How many independent paired differences of this standard deviation show the effect: two-sided 5%, power 80%.

    n = ((z_0.975 + z_0.8) deviation / effect)^2, rounded up. Raises DataError unless the effect is above 0.
    """
    if not effect > 0:
        raise DataError(f"an effect of {effect}", where="needed", fix="name the smallest one that matters, above 0")
    reach = norm.ppf((1 + LEVEL) / 2) + norm.ppf(POWER)
    return int(np.ceil((reach * deviation / effect) ** 2 - 1e-9))


def sizes(found: Labelled, encoder: Section, seed: int) -> dict[str, int]:
    """Training pairs of each arm in the first fold's models."""
    asked = [opening(each.prompt) for each in found.comparisons]
    folds = prompt_folds(asked, encoder.folds, seed)
    seen = [each for each, fold in zip(found.comparisons, folds, strict=True) if fold]
    return {arm: len(pairs) for arm, pairs in training_sets(seen, seed).items()}


def published_gain() -> float:
    """The paper's smallest overall gain of RM-Step4 over RM-Step3 (p1.table2), in points."""
    table = inventory.published("p1.table2")
    gains = [table[f"{size} RM-Step4"]["Overall"] - table[f"{size} RM-Step3"]["Overall"] for size in ("13B", "65B")]
    return round(min(gains), 1)  # as many digits as the table has


def _lengths(pairs: Sequence[Pair]) -> tuple[list[int], list[int]]:
    return [len(pair.chosen) for pair in pairs], [len(pair.rejected) for pair in pairs]


def accuracy_records(found: Labelled, results: Contrast) -> list[Record]:
    """Accuracy of every arm and null baseline on every test set, percent."""
    id = "p1_02.real_accuracy"
    places = [(arm, test) for arm in ARMS for test in TESTS]
    rows = [record(id, *place, results.interval(*place), unit="%", seeds=results.seeds) for place in places]
    for test in TESTS:
        pairs, prompts = found.tests[test], results.prompts[test]
        rows.append(record(id, LONGER, test, longer_baseline(*_lengths(pairs), groups=prompts).scaled(100), unit="%"))
        rows.append(record(id, RANDOM, test, random_baseline(len(pairs)).scaled(100), unit="%"))
    return rows


def contrast_records(results: Contrast) -> list[Record]:
    """Points between arms by test set, paired."""
    options = {"unit": "points", "seeds": results.seeds}
    places = [(test, name) for test in TESTS for name in CONTRASTS]
    return [record("p1_02.real_contrast", test, name, results.gain(name, test), **options) for test, name in places]


def power_records(results: Contrast, effect: float) -> list[Record]:
    """What step 4 less step 3 would need to show an effect of so many points: prompts of the test, and seeds."""
    id, rows, name = "p1_02.real_power", [], next(iter(CONTRASTS))
    for test in TESTS:
        by_prompt, by_seed = results.spread(name, test)
        n = len(set(results.prompts[test]))
        rows.append(record(id, test, "# prompts here", n))
        rows.append(record(id, test, "SD of a prompt's difference", by_prompt))
        rows.append(record(id, test, "# prompts needed", needed(by_prompt, effect)))
        if np.isfinite(by_seed):
            rows.append(record(id, test, "SD of a seed's difference", by_seed))
            rows.append(record(id, test, "# seeds needed", needed(by_seed, effect)))
    return rows


def numbers(found: Labelled | None, results: Contrast | None) -> dict[str, Interval | str]:
    """What the page's prose cites; words where the data is not at hand."""
    names = ("gain", "gain_helpful", "gain_natural", "learnt", "over_longer", "against", "prompts", "prompts_needed")
    if found is None or results is None:
        return {f"real_{name}": NOT_HERE for name in names} | {"real_state": "not at hand, so nothing here is measured"}
    first, *_, last = CONTRASTS
    gains = [results.gain(first, test) for test in TESTS] + [results.gain(last, PANDALM)]
    longer = pair_outcomes(*_lengths(found.tests[PANDALM]))
    against = next(row.interval for row in review(found) if row.row == AGAINST)
    needed_here = needed(results.spread(first, PANDALM)[0], published_gain())
    values = [*gains, results.gain_over_longer(STEP3, PANDALM, longer), against]
    values += [f"{len(set(results.prompts[PANDALM])):,}", f"{needed_here:,}"]
    return {f"real_{name}": value for name, value in zip(names, values, strict=True)} | {"real_state": "at hand"}
