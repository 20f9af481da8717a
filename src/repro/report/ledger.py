"""The ledger: a claim's rule, written before any run, meets its evidence; the verdict follows and nobody chooses it.

A rule has terms, each a bound on one quantity: `above x`, `below x`, `at most x`, `at least x`, `between x and y`.
A term holds when the whole interval is within the bound, fails when the whole interval is beyond it, and is
inconclusive when it straddles. A claim is `not run` while evidence
is missing, fails when one term fails, is inconclusive when one straddles, and holds when every term holds.
"""

import math
import re
from dataclasses import dataclass

from repro.core import inventory, records
from repro.core.errors import SettingsError
from repro.core.records import Record
from repro.core.statistics import Interval

VERDICTS = ("holds", "fails", "inconclusive", "not run")
_NUMBER = r"(-?\d+(?:\.\d+)?)"


@dataclass(frozen=True)
class Bound:
    """The range that a term's interval must lie in; an open end excludes the bound itself."""

    text: str
    low: float
    high: float
    open: bool

    def judge(self, interval: Interval) -> str:
        """holds, fails or inconclusive; an interval that is not a number is inconclusive."""
        if any(math.isnan(number) for number in (interval.value, interval.low, interval.high)):
            return "inconclusive"
        inside = (
            self.low < interval.low and interval.high < self.high
            if self.open
            else self.low <= interval.low and interval.high <= self.high
        )
        beyond = (
            interval.high <= self.low or interval.low >= self.high
            if self.open
            else interval.high < self.low or interval.low > self.high
        )
        return "holds" if inside else "fails" if beyond else "inconclusive"


def parse(rule: str) -> Bound:
    """A term's bound from its words. Raises SettingsError if the words are none of the five forms."""
    if match := re.fullmatch(rf"between {_NUMBER} and {_NUMBER}", rule):
        return Bound(rule, float(match[1]), float(match[2]), open=False)
    if match := re.fullmatch(rf"(above|below|at most|at least) {_NUMBER}", rule):
        number = float(match[2])
        low, high = (number, math.inf) if match[1] in ("above", "at least") else (-math.inf, number)
        return Bound(rule, low, high, open=match[1] in ("above", "below"))
    raise SettingsError(
        f"{rule!r} is no rule",
        where="book/inventory.yaml",
        fix="write above 0, below 0, at most 0, at least 0 or between 5 and 15",
    )


@dataclass(frozen=True)
class Judgement:
    """One claim in one court: its terms with bound, evidence and verdict, and the verdict over all."""

    claim: str
    court: str
    text: str
    paper: str
    terms: dict[str, tuple[Bound, Record | None, str]]

    @property
    def verdict(self) -> str:
        verdicts = [verdict for _, _, verdict in self.terms.values()]
        for first in ("not run", "fails", "inconclusive"):
            if first in verdicts:
                return first
        return "holds"

    @property
    def n(self) -> str:
        return _span([record.n for _, record, _ in self.terms.values() if record and record.n])

    @property
    def seeds(self) -> str:
        return ", ".join(sorted({record.seed for _, record, _ in self.terms.values() if record and record.seed}))


def _span(numbers: list[int]) -> str:
    if not numbers:
        return ""
    return f"{min(numbers):,}" if min(numbers) == max(numbers) else f"{min(numbers):,} to {max(numbers):,}"


def judge(claim: str, court: str, evidence: list[Record], *, strict: bool = True) -> Judgement:
    """Meet a claim's rule in one court with its records (id the claim, row the term, column the court).

    strict: a record of a term that the rule does not have is an error; otherwise it is left out, as a record of an older
    rule must be. Raises SettingsError for that, and if the claim or court is unknown.
    """
    about = inventory.entry(claim)
    if court not in about["courts"]:
        raise SettingsError(
            f"{claim} has no rule for {court!r}",
            where="book/inventory.yaml",
            fix=f"There are: {', '.join(about['courts'])}",
        )
    found = {record.row: record for record in evidence if record.id == claim and record.column == court}
    rule = about["courts"][court]
    if strict and (strange := set(found) - set(rule)):
        raise SettingsError(
            f"{claim} has no term {', '.join(sorted(strange))}",
            where="book/inventory.yaml",
            fix=f"There are: {', '.join(rule)}",
        )
    terms = {}
    for term, words in rule.items():
        bound, record = parse(words), found.get(term)
        verdict = "not run" if record is None else "inconclusive" if record.n == 1 else bound.judge(record.interval)
        terms[term] = (bound, record, verdict)  # one prompt alone has no interval
    return Judgement(claim, court, about["text"], str(about["paper"]), terms)


def scorecard(tier: str | None = None, seeds: str | None = None) -> list[Judgement]:
    """Every claim in every court it has a rule for, judged on the records of a tier."""
    evidence = records.load(tier=tier, seeds=seeds)
    return [
        judge(claim, court, evidence, strict=False)
        for claim, about in inventory.claims().items()
        for court in about["courts"]
    ]


def tally(judgements: list[Judgement]) -> dict[str, int]:
    """How many judgements there are of each verdict."""
    return {verdict: sum(judgement.verdict == verdict for judgement in judgements) for verdict in VERDICTS}
