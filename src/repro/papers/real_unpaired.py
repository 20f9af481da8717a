"""What two lists of scores say of pairs when nobody kept which score belongs to which prompt (GPT-4-LLM's file).

Every share of pairs is linear in the unknown joint distribution, whose margins are known: its least and its most over
all pairings are two linear programmes (the bounds of Fréchet and Hoeffding for more than two classes).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linprog

from repro.core.errors import DataError, MissingInput
from repro.core.progress import note
from repro.core.records import Record, record
from repro.core.settings import Section
from repro.core.statistics import Interval
from repro.data import gpt4_llm
from repro.papers import real_funnel
from repro.papers.collection_reviews import LEVELS, mask_of
from repro.papers.real_funnel import BOTH, STEP1, STEP3, TURNED, Ratings, after_step1, correlation, levels, ratings

LEAST, INDEPENDENT, MOST = "least", "if independent", "most"
NOT_HERE = "(not at hand)"


@dataclass(frozen=True)
class Margin:
    """One model's distinct scores, their shares, and its list as the file has it, nan where a score cannot be used."""

    model: str
    values: np.ndarray
    shares: np.ndarray
    listed: np.ndarray

    def by_level(self, edges: Sequence[float]) -> np.ndarray:
        """Shares of the five levels, (5,)."""
        return np.bincount(levels(self.values, edges).astype(int) - 1, self.shares, LEVELS)


def margins() -> tuple[dict[str, Margin], dict[str, dict]]:
    """Each model's scores, and per model how many are used and set aside. Raises MissingInput without the data."""
    loaded = gpt4_llm.load()
    found, tallies = {}, {}
    for each in loaded.rows:
        values, counts = np.unique(each.scores, return_counts=True)
        listed = np.full(each.listed, np.nan)
        listed[np.array(each.places) - 1] = each.scores
        found[each.model] = Margin(each.model, values, counts / counts.sum(), listed)
        aside = {"the score is outside 1 to 10": each.listed - len(each.scores)}
        tallies[f"{gpt4_llm.NAME}: {each.model}"] = {"rows": len(each.scores), "set_aside": aside}
    return found, tallies


def share_bounds(
    first: ArrayLike, second: ArrayLike, wanted: ArrayLike, within: ArrayLike | None = None
) -> tuple[float, float, float]:
    """Least, independent and most share of pairs in the wanted cells, of all or of those within other cells.

    first, second: margins (a,) and (b,), each summing to 1; wanted, within: (a, b) of bool. Within makes the share a ratio
    of two linear functions; Charnes and Cooper's change of variables (1962) makes it linear again. Raises DataError if
    shapes differ or `within` can hold no pair.
    """
    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    wanted = np.asarray(wanted, dtype=float)
    within = np.ones_like(wanted) if within is None else np.asarray(within, dtype=float)
    if not wanted.shape == within.shape == (len(first), len(second)):
        raise DataError(f"cells {wanted.shape} for margins {first.shape} and {second.shape}", where="share_bounds")
    a, b = wanted.shape
    rows = np.kron(np.eye(a), np.ones(b))
    columns = np.kron(np.ones(a), np.eye(b))
    # variables: the joint distribution times t, and t; t is 1 / (share of pairs within)
    sums = np.vstack([np.column_stack([rows, -first]), np.column_stack([columns, -second]), [*within.ravel(), 0.0]])
    right = np.append(np.zeros(a + b), 1.0)
    cost = np.append((wanted * within).ravel(), 0.0)
    ends = [linprog(sign * cost, A_eq=sums, b_eq=right, method="highs") for sign in (1, -1)]
    if not all(end.success for end in ends):
        raise DataError("no pairing puts a pair within the cells", where="share_bounds")
    joint = np.outer(first, second)
    return float(ends[0].fun), float((joint * wanted * within).sum() / (joint * within).sum()), float(-ends[1].fun)


def unpaired_records(found: dict[str, Margin], settings: Section) -> list[Record]:
    """Losses of steps 1 and 3 and what both keep, in percent: least and most over all pairings, and if independent."""
    rows, edges, mask = [], settings.real_cuts[0], mask_of(settings.mask)
    strong = found[settings.real_unpaired_strong]
    for weak in (each for name, each in found.items() if name != strong.model):
        passed = np.subtract.outer(strong.values, weak.values) > settings.epsilon
        kept = mask[np.ix_(*(levels(each.values, edges).astype(int) - 1 for each in (strong, weak)))]
        shares = (strong.shares, weak.shares)
        shown = {
            STEP1: share_bounds(*shares, ~passed),
            STEP3: share_bounds(*shares, ~kept, passed),
            BOTH: share_bounds(*shares, kept & passed),
        }
        for name, values in shown.items():
            row, n = pairing(strong.model, weak.model, name), min(len(strong.listed), len(weak.listed))
            for column, value in zip((LEAST, INDEPENDENT, MOST), values, strict=True):
                rows.append(record("p1_01.real_unpaired", row, column, 100 * value, n=n))
    return rows


def pairing(strong: str, weak: str, part: str) -> str:
    """How a row of `unpaired_records` is called."""
    return f"{strong} and {weak}: {part}"


def independent_matrix(strong: Margin, weak: Margin, edges: Sequence[float]) -> np.ndarray:
    """Pairs in each cell (r+, r-), (5, 5), that independent scores would give, of as many as the shorter list has."""
    return min(len(strong.listed), len(weak.listed)) * np.outer(strong.by_level(edges), weak.by_level(edges))


def position_records(found: dict[str, Margin]) -> list[Record]:
    """Correlation of two lists' scores in the same place: what pairing by place would rest on."""
    names, rows = list(found), []
    for k, one in enumerate(names):
        for other in names[k + 1 :]:
            both = found[one].listed, found[other].listed
            size = min(map(len, both))
            value = correlation(both[0][:size], both[1][:size])
            rows.append(record("p1_01.real_positions", f"{one} and {other}", "correlation by place", value))
    return rows


@dataclass(frozen=True)
class RealScores:
    """The two sets of scores as far as they are at hand, rows used and set aside by set, and the names of those absent."""

    ratings: Ratings | None = None
    margins: dict[str, Margin] = field(default_factory=dict)
    tallies: dict[str, dict] = field(default_factory=dict)
    absent: tuple[str, ...] = ()

    def lines(self) -> list[list[str]]:
        """The tallies as rows of a table: set, scores used, set aside, why."""
        found = []
        for name, tally in self.tallies.items():
            aside = {why: count for why, count in tally["set_aside"].items() if count}
            why = "; ".join(f"{count:,} {why}" for why, count in aside.items())
            found.append([name, f"{tally['rows']:,}", f"{sum(aside.values()):,}", why])
        return found

    def matrices(self, settings: Section) -> dict[str, np.ndarray]:
        """Pairs by cell (r+, r-), (5, 5) each: counted on the prompts that step 1 keeps, and as independent scores give."""
        edges, found = settings.real_cuts[0], {}
        if self.ratings:
            found["arena-bench, after step 1"] = after_step1(self.ratings, settings, edges).matrix()
        strong = self.margins.get(settings.real_unpaired_strong)
        for name, weak in self.margins.items():
            if strong and name != strong.model:
                found[f"{strong.model} and {name}, if independent"] = independent_matrix(strong, weak, edges)
        return found


def real_scores() -> RealScores:
    """Both sets of scores, each noted where it is not at hand."""
    found, margin, tallies, absent = None, {}, {}, []
    try:
        found = ratings()
        tallies["arena-bench"] = found.tally
    except MissingInput as problem:
        absent.append("arena-bench")
        note(f"arena-bench: {problem.what}; the scores' table and funnel are left out")
    try:
        margin, more = margins()
        tallies |= more
    except MissingInput as problem:
        absent.append(gpt4_llm.NAME)
        note(f"{gpt4_llm.NAME}: {problem.what}; its bounds are left out")
    return RealScores(found, margin, tallies, tuple(absent))


def numbers(found: RealScores, settings: Section) -> dict[str, Interval | str]:
    """What the page's prose cites of both sets; words where a set is not at hand."""
    names = ("step1", "step3", "both", "turned", "mask_least", "mask_most", "weak_least", "weak_most")
    shown = {f"real_{name}": NOT_HERE for name in (*names, "least", "most", "close_least", "close_most")}
    shown["real_absent"] = ", ".join(found.absent) or "none (both are)"
    shown["real_paper_both"] = f"{real_funnel.published()[BOTH]:.0f}"
    if found.ratings:
        parts = real_funnel.funnel(found.ratings, settings)
        shown |= {f"real_{k}": parts[part] for k, part in zip(names, (STEP1, STEP3, BOTH, TURNED), strict=False)}
        losses = [row.value for row in real_funnel.mask_records(found.ratings, settings)]
        at_zero = [row.value for row in real_funnel.epsilon_records(found.ratings, settings) if row.column == "0"]
        for name, values in (("mask", losses), ("weak", at_zero)):
            if values:
                shown |= {f"real_{name}_least": f"{min(values):.0f}", f"real_{name}_most": f"{max(values):.0f}"}
    if found.margins:
        ends = {(row.row, row.column): row.value for row in unpaired_records(found.margins, settings)}
        strong = settings.real_unpaired_strong
        for start, weak in (("", settings.real_unpaired_weak), ("close_", settings.real_unpaired_close)):
            for word, column in (("least", LEAST), ("most", MOST)):
                shown[f"real_{start}{word}"] = f"{ends[pairing(strong, weak, BOTH), column]:.0f}"
    return shown
