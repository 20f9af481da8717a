"""p2's two mixtures of preferences, what differs between them, and SHP's two rules, in the miniature world.

Gold says there which of two answers is the better one, so what a rule costs in pairs and buys in right labels can be seen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.special import softmax

from repro.core.progress import progress
from repro.core.records import Record, record
from repro.core.settings import Section
from repro.core.statistics import mean_interval
from repro.world import constants, sources, tasks
from repro.world.annotators import Human, read
from repro.world.task import Rng, Task

PARTS = ("source", "category", "annotator")
LONGER, LENGTH, RIGHT = "longer chosen (%)", "chosen less rejected (characters)", "in gold's order (%)"
KEPT, PAIRS = "pairs kept (%)", "pairs a post"
SHP = "SHP"


# mixtures


@dataclass(frozen=True)
class Mixture:
    """What a mixture's pairs are: names and qualities by pair, (pairs,), nan where one does not apply; their prompts."""

    parts: dict[str, np.ndarray]
    values: dict[str, np.ndarray]
    prompts: list[str]

    def composition(self, part: str) -> dict[str, float]:
        """Percent of the pairs by source, category or annotator, the largest first."""
        names, counts = np.unique(self.parts[part], return_counts=True)
        return {str(names[i]): 100 * counts[i] / counts.sum() for i in np.argsort(-counts, kind="stable")}


def described(rows: Sequence[Mapping]) -> Mixture:
    """Source, category and annotator of each pair; whether the longer answer, and whether the better one, was chosen."""
    lengths = np.array([[len(row["chosen"]), len(row["rejected"])] for row in rows], dtype=float)
    parts = {
        "source": np.array([row["source"] for row in rows]),
        "category": np.array([row["extras"]["task"]["category"] for row in rows]),
        "annotator": np.array([row["extras"]["annotator"] for row in rows]),
    }
    gold = np.array([row["extras"]["gold"] for row in rows])
    return Mixture(parts, qualities(lengths, gold), [str(row["prompt"]) for row in rows])


def qualities(lengths: np.ndarray, gold: np.ndarray) -> dict[str, np.ndarray]:
    """By pair, whether the longer and whether the better answer was chosen, in percent, and how much longer it is.

    lengths, gold: (pairs, 2), chosen first. Equal lengths count half; a pair of equal gold has no right order (nan).
    """
    margin = np.round(gold[:, 0] - gold[:, 1], 9)  # what is equal on paper is equal
    return {
        LONGER: 50 + 50 * np.sign(lengths[:, 0] - lengths[:, 1]),
        LENGTH: lengths[:, 0] - lengths[:, 1],
        RIGHT: np.where(margin == 0, np.nan, 100.0 * (margin > 0)),
    }


def mixtures(names: Sequence[str], settings: Section, seeds: Sequence[int]) -> dict[str, Mixture]:
    """The named mixtures, `rows` cleaned pairs a seed. Raises SettingsError for an unknown one."""
    return {
        name: described([row for seed in seeds for row in sources.mixture(name, settings.rows, seed)])
        for name in progress(names, label="mixing")
    }


def mixture_records(found: Mapping[str, Mixture], draws: int, seeds: Sequence[int]) -> list[Record]:
    """p2_01.mixtures: what differs between mixtures, interval over prompts."""
    return [
        record("p2_01.mixtures", name, column, mean_interval(values, groups=mixture.prompts, draws=draws), seeds=seeds)
        for name, mixture in found.items()
        for column, values in mixture.values.items()
    ]


def composition_records(found: Mapping[str, Mixture], draws: int, seeds: Sequence[int]) -> list[Record]:
    """p2_01.composition: percent of each mixture's pairs by source, category and annotator; by design, but for categories."""
    rows = []
    for name, mixture in found.items():
        for part in PARTS:
            for value in mixture.composition(part):
                share = mean_interval(100.0 * (mixture.parts[part] == value), groups=mixture.prompts, draws=draws)
                rows.append(record("p2_01.composition", f"{part}: {value}", name, share, unit="%", seeds=seeds))
    return rows


# SHP


@dataclass(frozen=True)
class Votes:
    """All pairs of a post's answers whose votes differ: the post, votes (pairs, 2), the higher first, and qualities."""

    posts: np.ndarray
    votes: np.ndarray
    values: dict[str, np.ndarray]

    def chosen(self, ratio: float, cap: int | None) -> np.ndarray:
        """Which pairs stay, (pairs,): those of at least `ratio` times the votes, the first `cap` of each post (p2.shp)."""
        clear = self.votes[:, 0] >= ratio * self.votes[:, 1]
        stay, taken = np.zeros(len(clear), dtype=bool), dict.fromkeys(self.posts.tolist(), 0)
        for place in np.flatnonzero(clear):
            post = int(self.posts[place])
            stay[place] = cap is None or taken[post] < cap
            taken[post] += 1
        return stay


def voted(posts: int, answers: int, seed: int) -> Votes:
    """Posts of SHP's kind with their answers and votes; every pair of them that is neither empty, equal nor tied.

    Visitors vote as in the source, two for each answer, so that more answers do not make votes rarer.
    """
    source, rng = sources.SOURCES[SHP], np.random.default_rng([seed, 31])
    names, weights = list(source.categories), np.array(list(source.categories.values()), dtype=float)
    asked = [tasks.draw(names[k], rng) for k in rng.choice(len(names), size=posts, p=weights / weights.sum())]
    each = [task for task in asked for _ in range(answers)]
    writers = [source.writers[i % answers % len(source.writers)] for i in range(len(each))]
    said = [_answer(task, rng, writer) for task, writer in zip(each, writers, strict=True)]
    found, crowd = read(each, said), Human()
    utility = (crowd.temperature_inverse * crowd.utility(found)).reshape(posts, answers)
    visitors = constants.VISITORS * answers // source.answers
    votes = np.array([1 + rng.multinomial(visitors, chances) for chances in softmax(utility, axis=1)])
    first, second, post = _pairs(said, votes.ravel(), answers, rng)
    sides = np.stack([first, second], axis=1)
    lengths = np.array([len(text) for text in said], dtype=float)
    return Votes(post, votes.ravel()[sides], qualities(lengths[sides], found.gold[sides]))


def _answer(task: Task, rng: Rng, writer: str) -> str:
    if rng.random() < constants.BLANK:
        return ""
    return tasks.respond(task, rng, tasks.faults(rng, constants.WRITERS[writer]))


def _pairs(said: Sequence[str], votes: np.ndarray, answers: int, rng: Rng) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places of the preferred and the other answer of each pair of use, and its post, a post's pairs in random order."""
    found = []
    for start in range(0, len(said), answers):
        both = list(combinations(range(start, start + answers), 2))
        for a, b in (both[place] for place in rng.permutation(len(both))):
            texts = said[a].strip(), said[b].strip()
            if votes[a] != votes[b] and all(texts) and texts[0] != texts[1]:
                found.append((a, b, start // answers) if votes[a] > votes[b] else (b, a, start // answers))
    return tuple(np.array(found, dtype=int).reshape(-1, 3).T)


def shp(settings: Section, seeds: Sequence[int]) -> list[Record]:
    """p2_01.shp: by score ratio and cap, what is kept and how often it is right, over posts of all seeds."""
    every = [voted(settings.shp_posts, settings.shp_answers, seed) for seed in seeds]
    posts = np.concatenate([found.posts + place * settings.shp_posts for place, found in enumerate(every)])
    values = {name: np.concatenate([found.values[name] for found in every]) for name in (RIGHT, LONGER)}
    rows = []
    for ratio in settings.shp_ratios:
        for cap in settings.shp_caps:
            stay = np.concatenate([found.chosen(ratio, cap) for found in every])
            label = f"ratio at least {ratio:g}, {'no cap' if cap is None else f'at most {cap} a post'}"
            columns = {KEPT: mean_interval(100.0 * stay, groups=posts, draws=settings.draws)}
            columns[PAIRS] = mean_interval(
                np.bincount(posts[stay], minlength=len(seeds) * settings.shp_posts).astype(float),
                draws=settings.draws,
            )
            for name, found in values.items():
                columns[name] = mean_interval(np.where(stay, found, np.nan), groups=posts, draws=settings.draws)
            rows += [record("p2_01.shp", label, column, value, seeds=seeds) for column, value in columns.items()]
    return rows
