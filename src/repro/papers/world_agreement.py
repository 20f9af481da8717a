"""p3.table1 in the miniature world: people, the judge and the weak judge on a policy's own answers, by choice and by level.

Choices are what people are asked for everywhere else in the world. The paper asks for scores of 1 to 5, so here people
also score: a person's view of an answer is utility plus Gumbel noise, by which two views differ as that person's choices do
(McFadden 1974), cut into levels where the judge's own shares are. So people and judge use each level equally often.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from repro.core.errors import DataError
from repro.core.records import Record, record
from repro.core.statistics import Interval, mean_interval
from repro.papers.judge_agreement import LONGER, PERCENT, PERSON, TWO, Compared, counted, longer, mean_kappa
from repro.papers.miniature import Pool
from repro.world import annotators
from repro.world.sources import annotators as everyone

JUDGE, WEAK = "judge", "weak judge"
LEVELS = 5


@dataclass(frozen=True)
class Views:
    """Levels by person and judge: (draws, answers), 1 to 5; groups: each answer's prompt."""

    levels: dict[str, np.ndarray]
    people: tuple[str, ...]
    groups: np.ndarray


@dataclass(frozen=True)
class WorldAgreement:
    """The comparisons of pairs, the levels of single answers, and the categories' names of the pairs."""

    compared: Compared
    views: Views
    categories: np.ndarray
    seeds: tuple[int, ...]

    def evidence(self) -> dict[str, Interval]:
        """What the rule of p3.c10 asks for, by choices."""
        return {"agreement": self.compared.share(JUDGE), "judge_less_human": self.compared.less_person(JUDGE)}

    def category_records(self) -> list[Record]:
        """p3_01.agreement_by_category: the judge and a person, two people, in percent."""
        found, parts = [], {PERSON: self.compared.same(JUDGE), TWO: self.compared.same()}
        groups = np.array(self.compared.groups)
        for category in dict.fromkeys(self.categories):
            members = self.categories == category
            for column, values in parts.items():
                value = mean_interval(values[:, members], groups=groups[members]).scaled(PERCENT)
                found.append(record("p3_01.agreement_by_category", column, category, value, unit="%", seeds=self.seeds))
        return found

    def level_records(self) -> list[Record]:
        """p3_01.levels: percent of equal and of neighbouring levels, and kappa weighted by squared distance."""
        views, found = self.views, []
        twos = {f"{judge} and a person": judge for judge in (JUDGE, WEAK)} | {TWO: None}
        for name, judge in twos.items():
            apart = np.stack([np.abs(one - other) for one, other in _twos(views, judge)])
            for column, near in (("equal", 0), ("at most one apart", 1)):
                value = mean_interval((apart <= near).mean(0), groups=views.groups).scaled(PERCENT)
                found.append(record("p3_01.levels", name, column, value, unit="%", seeds=self.seeds))
            scaled = [[(each - 1) / (LEVELS - 1) for each in both] for both in _twos(views, judge)]
            tables = np.stack([counted(*both, views.groups, LEVELS) for both in scaled], axis=1)
            value = mean_kappa(tables, quadratic=True)
            if value is not None:
                found.append(record("p3_01.levels", name, "weighted kappa", value, seeds=self.seeds))
        return found


def _twos(views: Views, judge: str | None) -> list[tuple[np.ndarray, np.ndarray]]:
    names = views.people
    if judge is not None:
        return [(views.levels[judge], views.levels[person]) for person in names]
    return [(views.levels[a], views.levels[b]) for k, a in enumerate(names) for b in names[k + 1 :]]


def study(answers: Pool, seeds: Sequence[int], n: int) -> WorldAgreement:
    """Everyone on the first n answers to each prompt, taken two by two; a seed is another time that people are asked.

    Two answers of the same text are left out; levels are of the first answer of each pair. Raises DataError as `read` does.
    """
    drawn, texts, asked = answers.first(n), [], []
    for task, row in zip(drawn.tasks, drawn.texts, strict=True):
        texts += [pair for pair in zip(row[::2], row[1::2], strict=False) if pair[0] != pair[1]]
        asked += [task] * (len(texts) - len(asked))
    if not texts:
        raise DataError(
            "answers two by two are all alike", where="agreement", fix="draw more answers, or at temperature 1"
        )
    firsts, seconds = (annotators.read(asked, [pair[side] for pair in texts]) for side in (0, 1))
    panel = everyone()["human"]
    people = tuple(f"person {k + 1}" for k in range(len(panel.people)))
    rngs = [np.random.default_rng([seed, 31]) for seed in seeds]
    choices = np.stack([panel.everyone(firsts, seconds, rng) for rng in rngs])
    said = {name: choices[:, k] for k, name in enumerate(people)}
    for name in (JUDGE, WEAK):
        said[name] = np.tile(everyone()[name].prefer(firsts, seconds, rngs[0]), (len(seeds), 1))
    said[LONGER] = longer(texts, len(seeds))
    names = [str(task.turns) for task in asked]
    compared = Compared("the world", said, people, (JUDGE, WEAK), names, texts)
    views = _views(firsts, panel, people, np.unique(names, return_inverse=True)[1], rngs)
    return WorldAgreement(compared, views, np.array([task.category for task in asked]), tuple(seeds))


def _views(
    read: annotators.Reading,
    panel: annotators.Panel,
    people: Sequence[str],
    groups: np.ndarray,
    rngs: Sequence[np.random.Generator],
) -> Views:
    judged: Mapping[str, np.ndarray] = {name: everyone()[name].levels(read) for name in (JUDGE, WEAK)}
    levels = {name: np.tile(values, (len(rngs), 1)).astype(float) for name, values in judged.items()}
    for name, person in zip(people, panel.people, strict=True):
        levels[name] = np.stack([scored(person, read, judged[JUDGE], rng) for rng in rngs]).astype(float)
    return Views(levels, tuple(people), groups)


def scored(
    person: annotators.Human, read: annotators.Reading, like: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """A person's levels of answers, (answers,), each as often as it is in `like`; careless ones are drawn from `like`."""
    noise = rng.gumbel(size=len(like)) / person.temperature_inverse
    order = np.argsort(person.utility(read) + noise, kind="stable")
    levels = np.empty(len(like), dtype=int)
    levels[order] = np.sort(like)
    careless = rng.random(len(like)) < person.careless
    return np.where(careless, rng.permutation(like), levels)
