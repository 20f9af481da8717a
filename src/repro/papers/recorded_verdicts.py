"""Public sets in which people compared answers, and the judges' verdicts that were recorded beside theirs (p3.table1).

PandaLM has three people and two judges row by row. AlpacaEval's authors published how far GPT-4 and single people agree
with the rest of four people, without the rows. Tulu has several people and no judge, LLMBar's processed sets people's
majority alone: these say what people, or length, can do. A set that is not on this machine is left out and said so.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from repro.core.errors import MissingInput
from repro.core.progress import note
from repro.core.settings import Section
from repro.core.statistics import LEVEL, Interval
from repro.data import Loaded, alpaca_eval, llmbar, pandalm, tulu_human_eval
from repro.papers.inputs import counted
from repro.papers.judge_agreement import LESS, LONGER, NULL, PERCENT, PERSON, TWO, Compared, longer
from repro.papers.reward_models import opening
from repro.train.pairs import sample_pairs

SAID = {1: 1.0, 2: 0.0, 0: 0.5, None: np.nan}  # a verdict of the public sets as a win of the first answer
PANDALM, ALPACA, TULU, LLMBAR = "PandaLM", "AlpacaEval, published", "Tulu", "LLMBar's processed sets"
JUDGE, PEOPLE, LONGEST = "alpaca_eval_gpt4", "humans", "longest"  # rows of AlpacaEval's table of annotators
AGREEMENT, PARSED = "Human agreement", "# parsed"  # its columns: percent; annotations that were read
CROSSED = 4  # people who compared each pair there (Dubois et al. 2023)


@dataclass(frozen=True)
class Recorded:
    """What is at hand: sets with rows, all sets' columns of p3.table1 by name, and tallies of rows used and set aside."""

    sets: list[Compared]
    measures: list[tuple[str, dict[str, Interval | None]]]
    tallies: dict[str, dict]

    def evidence(self) -> dict[str, Interval]:
        """What the rule of p3.c10 asks for: the mean over the sets that recorded a judge, each set as much as another.

        Ties count as labels, as equal scores would. Empty if no set with a judge is at hand.
        """
        judged = [columns for _, columns in self.measures if columns[PERSON] is not None]
        terms = {"agreement": PERSON, "judge_less_human": LESS}
        return {term: mean_of([each[column] for each in judged]) for term, column in terms.items()} if judged else {}


def mean_of(parts: Sequence[Interval]) -> Interval:
    """Mean of independent intervals: half-widths add as roots of sums of squares; n counts all prompts."""
    value = float(np.mean([part.value for part in parts]))
    below, above = (
        math.sqrt(sum(each**2 for each in ends)) / len(parts)
        for ends in ([p.value - p.low for p in parts], [p.high - p.value for p in parts])
    )
    return Interval(value, value - below, value + above, sum(part.n for part in parts))


def recorded(settings: Section) -> Recorded:
    """All four sets, or those of them that are on this machine. settings: real_pairs of each (None for all)."""
    sets, measures, tallies = [], [], {}
    for name, load in ((PANDALM, _pandalm), (TULU, _tulu), (LLMBAR, _llmbar)):
        if (found := _at_hand(lambda load=load: load(settings))) is not None:
            compared, loaded = found
            sets.append(compared)
            measures.append((name, compared.measures()))
            tallies[name] = {**counted(loaded), "rows": len(compared.groups)}
            undrawn = len(loaded.rows) - len(compared.groups)
            tallies[name]["set_aside"] |= {"not drawn": undrawn} if undrawn else {}
    if (published := _at_hand(_alpaca)) is not None:
        measures.insert(min(1, len(measures)), (ALPACA, published))
    return Recorded(sets, measures, tallies)


def _at_hand(load: Callable) -> object | None:
    try:
        return load()
    except MissingInput as problem:
        note(f"{problem.where}: {problem.what}; its row is left out")
        return None


def _compared(name: str, rows: Sequence, said: dict[str, list], people: list[str], judges: Sequence[str]) -> Compared:
    texts = [row.answers for row in rows]
    table = {who: np.array([values], dtype=float) for who, values in said.items()} | {LONGER: longer(texts)}
    return Compared(name, table, tuple(people), tuple(judges), [opening(row.prompt) for row in rows], texts)


def _pandalm(settings: Section) -> tuple[Compared, Loaded]:
    loaded = pandalm.load()
    rows = sample_pairs(loaded.rows, settings.real_pairs, 0)
    people = [f"person {k + 1}" for k in range(len(pandalm.PEOPLE))]
    said = {judge: [SAID[row.judges[judge]] for row in rows] for judge in pandalm.JUDGES}
    said |= {name: [SAID[row.people[k]] for row in rows] for k, name in enumerate(people)}
    return _compared(PANDALM, rows, said, people, tuple(pandalm.JUDGES)), loaded


def _tulu(settings: Section) -> tuple[Compared, Loaded]:
    """Who is first of a pair's people is the order of the file: sixteen persons rarely meet on a pair."""
    loaded = tulu_human_eval.load()
    rows = sample_pairs(loaded.rows, settings.real_pairs, 0)
    verdicts = [[SAID[verdict] for verdict in row.people.values()] for row in rows]
    people = [f"person {k + 1}" for k in range(max(map(len, verdicts)))]
    said = {name: [(row + [np.nan] * len(people))[k] for row in verdicts] for k, name in enumerate(people)}
    return _compared(TULU, rows, said, people, ()), loaded


def _llmbar(settings: Section) -> tuple[Compared, Loaded]:
    loaded = llmbar.load(subsets=tuple(llmbar.PROCESSED))
    rows = sample_pairs(loaded.rows, settings.real_pairs, 0)
    texts = [(pair.chosen, pair.rejected) for pair in rows]
    said = {"person 1": np.ones((1, len(rows))), LONGER: longer(texts)}
    return Compared(LLMBAR, said, ("person 1",), (), [opening(pair.prompt) for pair in rows], texts), loaded


def _alpaca() -> dict[str, Interval | None]:
    """The published agreements, with the binomial interval of as many prompts; it ignores that pairs are shared."""
    table = alpaca_eval.leaderboard(which="evaluators")
    prompts = int(table[PEOPLE][PARSED]) // CROSSED

    def interval(name: str) -> Interval:
        share = table[name][AGREEMENT] / PERCENT
        width = norm.ppf((1 + LEVEL) / 2) * math.sqrt(share * (1 - share) / prompts)
        return Interval(share, share - width, share + width, prompts).scaled(PERCENT)

    judge, person = interval(JUDGE), interval(PEOPLE)
    width = math.hypot(judge.half_width, person.half_width)
    less = judge.value - person.value
    apart = Interval(less, less - width, less + width, prompts)
    return {PERSON: judge, TWO: person, LESS: apart, NULL: interval(LONGEST)}
