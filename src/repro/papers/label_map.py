"""When do few clean labels beat many poor ones? A map over the two ways in which labels can be poor: noise and a liking for length.

Every cell trains on the pairs of RM-Step3, all of them, in the direction of an annotator who likes length by so much and flips
a coin so often; it is held against RM-Step4 as it is. Where a real annotator lies on the map is read off its own labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import xlogy

from repro.core.parallel import run_all
from repro.core.records import Record, record
from repro.core.settings import Section
from repro.core.statistics import Interval, difference_interval, mean_interval
from repro.data import Pair
from repro.papers.collection import Collection
from repro.papers.filtered_models import PERCENT, SMALL, first_review, learning, relabelled
from repro.papers.miniature import Pool, concordance, policy, rewards
from repro.train.reward_tokens import TokenRewardModel, finetuning
from repro.world.annotators import Human, Reading

HOLDS, TIES, REVERSES = "holds", "ties", "reverses"
JUDGE, PEOPLE = "the judge of step 3", "one person of step 4"
LIKINGS = np.round(np.arange(-0.6, 2.001, 0.02), 2)  # gold units per ten words that are tried on an annotator's labels
Cell = tuple[float, float]  # noise, bias


def labeller(noise: float, bias: float) -> Human:
    """Who labels a cell: gold plus bias for every ten words decides, except for the share of pairs on which a coin does."""
    return Human(verbosity=bias, temperature_inverse=np.inf, careless=noise)


@dataclass(frozen=True)
class Liking:
    """What a set of labels looks like on the map: the bias that explains most of them, and the coins that the rest amounts to.

    error: percent of labels against gold's order; longer: percent for the longer answer, among pairs of equal gold.
    """

    noise: float
    bias: float
    error: float
    longer: float
    pairs: int


def liking(chosen: Reading, rejected: Reading) -> Liking:
    """The cell whose annotator is most likely to give these labels.

    An annotator of a cell contradicts its own view on half of its coins and on nothing else, and tosses one where both
    answers are alike to it; so for every bias the likeliest noise is known, and the likeliest pair is found by trying. Of
    several the bias nearest zero.
    """
    gold, words = chosen.gold - rejected.gold, chosen.words - rejected.words
    margins = np.round(gold[None] + LIKINGS[:, None] * words[None] / 10, 9)
    against, alike = (margins < 0).sum(1), (margins == 0).sum(1)
    decided = len(gold) - alike
    error = np.minimum(against / np.maximum(decided, 1), 0.5)
    likelihood = xlogy(against, error) + xlogy(decided - against, 1 - error) + alike * np.log(0.5)
    best = max(range(len(LIKINGS)), key=lambda place: (round(likelihood[place], 6), -abs(LIKINGS[place])))
    ordered, level = np.round(gold, 9) != 0, (np.round(gold, 9) == 0) & (words != 0)
    return Liking(
        noise=float(2 * error[best]),
        bias=float(LIKINGS[best]),
        error=PERCENT * float((gold[ordered] < 0).mean()) if ordered.any() else np.nan,
        longer=PERCENT * float((words[level] > 0).mean()) if level.any() else np.nan,
        pairs=len(gold),
    )


def likings(data: Sequence[Collection]) -> dict[str, list[Liking]]:
    """Where the judge's labels of step 3 lie, and those of its pairs' first reviewers: one of each a seed."""
    found: dict[str, list[Liking]] = {JUDGE: [], PEOPLE: []}
    for each in data:
        sets = {JUDGE: each.filtered, PEOPLE: [first_review(pair) for pair in each.filtered]}
        for who, pairs in sets.items():
            found[who].append(liking(*each.graded.sides(pairs)))
    return found


@dataclass(frozen=True)
class LabelMap:
    """Accuracy on gold order by cell and of the fixed model, (seeds, prompts) each; real annotators' places, one a seed."""

    noises: list[float]
    biases: list[float]
    cells: dict[Cell, np.ndarray]
    fixed: np.ndarray
    likings: dict[str, list[Liking]]
    seconds: float
    seeds: tuple[int, ...]

    def difference(self, cell: Cell) -> Interval:
        """Points by which the fixed model is ahead of the cell's, paired by prompt and seed."""
        return difference_interval(self.fixed, self.cells[cell]).scaled(PERCENT)

    def verdict(self, cell: Cell) -> str:
        """Whether few clean labels beat these many: their interval lies above zero, about it, or below."""
        found = self.difference(cell)
        return HOLDS if found.low > 0 else REVERSES if found.high < 0 else TIES

    def grid(self) -> tuple[np.ndarray, dict[tuple[int, int], str]]:
        """The differences, (biases, noises), and by row and column what a cell says: verdict, difference, half its interval."""
        values, words = np.empty((len(self.biases), len(self.noises))), {}
        for row, bias in enumerate(self.biases):
            for column, noise in enumerate(self.noises):
                values[row, column] = self.difference((noise, bias)).value
                words[row, column] = self._words((noise, bias))
        return values, words

    def _words(self, cell: Cell) -> str:
        found = self.difference(cell)
        value = f"{found.value:+.1f}".replace("-", "\N{MINUS SIGN}")
        return f"{self.verdict(cell)}\n{value} \N{PLUS-MINUS SIGN} {found.half_width:.1f}"

    def place(self, who: str) -> tuple[float, float]:
        """Where an annotator lies, in columns and rows of the grid, the mean over seeds; beyond the map, on its edge."""
        noise, bias = (np.mean([getattr(each, axis) for each in self.likings[who]]) for axis in ("noise", "bias"))
        columns, rows = np.arange(len(self.noises)), np.arange(len(self.biases))
        return float(np.interp(noise, self.noises, columns)), float(np.interp(bias, self.biases, rows))

    def count(self, verdict: str) -> int:
        """Cells of one verdict."""
        return sum(self.verdict(cell) == verdict for cell in self.cells)

    def records(self) -> list[Record]:
        """p1_02.map: by bias (rows) and noise (columns) the points that the fixed model is ahead; p1_02.map_cells: accuracies."""
        found = []
        for noise, bias in self.cells:
            names, options = (f"bias = {bias:g}", f"noise = {noise:g}"), {"seeds": self.seeds}
            found.append(record("p1_02.map", *names, self.difference((noise, bias)), unit="points", **options))
            accuracy = mean_interval(self.cells[noise, bias]).scaled(PERCENT)
            found.append(record("p1_02.map_cells", *names, accuracy, unit="%", **options))
        return found

    def liking_records(self) -> list[Record]:
        """p1_02.annotators: what the judge's and a person's labels on step 3's pairs look like, the mean over seeds."""
        columns = {"noise": "", "bias": "gold units per ten words", "error": "%", "longer": "%", "pairs": ""}
        found = []
        for who, each in self.likings.items():
            for name, unit in columns.items():
                value = float(np.mean([getattr(one, name) for one in each]))
                shown = "# pairs" if name == "pairs" else name
                found.append(record("p1_02.annotators", who, shown, value, unit=unit, seeds=self.seeds))
        return found


def study(
    data: Sequence[Collection],
    world: Section,
    settings: Section,
    answers: Pool,
    fixed: Sequence[TokenRewardModel],
    seeds: Sequence[int],
) -> LabelMap:
    """Train every cell for every seed and hold it against the fixed model of that seed on the order of a policy's answers.

    data: a collection a seed; settings: map_noise, map_bias; fixed: RM-Step4 of the small size, a model a seed.
    """
    cells = [(float(noise), float(bias)) for bias in settings.map_bias for noise in settings.map_noise]
    rules, start = learning(SMALL, world, settings), policy(SMALL, world)
    sets: list[tuple[list[Pair], int]] = [
        (relabelled(found, found.filtered, labeller(*cell), seed), seed)
        for cell in cells
        for found, seed in zip(data, seeds, strict=True)
    ]
    made = run_all([finetuning(pairs, rules, seed, start) for pairs, seed in sets], world.workers)
    models = [TokenRewardModel(each, rules) for each in made]
    scored = rewards([*models, *fixed], answers)
    order = np.array([concordance(each, answers.gold) for each in scored])
    by_cell = order[: len(models)].reshape(len(cells), len(seeds), -1)
    return LabelMap(
        list(settings.map_noise),
        list(settings.map_bias),
        dict(zip(cells, by_cell, strict=True)),
        order[len(models) :],
        likings(data),
        float(np.mean([each.manifest["seconds"] for each in made])),
        tuple(seeds),
    )
