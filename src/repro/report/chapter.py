"""A chapter's thin front in a notebook: settings in; tables, verdicts, glued numbers and saved records out."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from IPython.display import display

from repro.core import inventory, records, settings
from repro.core.progress import note
from repro.core.records import Record, record
from repro.core.settings import Section
from repro.core.statistics import Interval
from repro.report import ledger, tables, text

WORDS = {
    "holds": ("tip", "holds"),
    "fails": ("danger", "fails"),
    "inconclusive": ("warning", "inconclusive"),
    "not run": ("note", "not run"),
}


class Chapter:
    """One chapter at one tier: resolves settings, shows, and keeps what it reports as records.

    Raises SettingsError on an unknown chapter, tier or parameter; DataError on a seed that is none.
    """

    def __init__(
        self,
        name: str,
        tier: str = "smoke",
        seeds: str | int | Sequence[int] = (0,),
        overrides: Mapping[str, Any] | None = None,
    ):
        self.name, self.tier = name, tier
        self.seeds = records.parse_seeds(seeds)
        self.resolved = settings.load(tier, overrides, name)
        self.settings = self.section(name)
        self.exploring = bool(overrides)
        # in JupyterLab cells run in any order and not all of them: what an earlier run recorded stays until replaced
        kept = (
            {}
            if os.environ.get("REPRO_BATCH")
            else {"chapter": name, "tier": tier, "seeds": records.seeds_text(self.seeds)}
        )
        self.rows: list[Record] = records.load(**kept) if kept else []
        if self.exploring:
            note(
                f"exploring {dict(overrides or {})}: nothing is recorded, so the scorecard keeps the tier's own results"
            )

    def section(self, name: str) -> Section:
        """Another chapter's settings at the same tier, for what this one shares with it."""
        return self.resolved.section(name)

    def about(self, section: str | None = None) -> None:
        """Show what this tier shrinks: each parameter, the paper's value, the value here, and why.

        section: another section that the chapter works by, shown without the shared parameters.
        Raises SettingsError if there is no such section.
        """
        shared, found = self.resolved.sections["shared"], self.section(section or self.name)
        places = [(section or self.name, key) for key in found if key not in shared]
        places += [] if section else [("shared", key) for key in shared]
        paper, where, why = settings.load("paper"), settings.comments("paper"), {}
        for tier in self._tiers_below_paper():
            why.update(settings.comments(tier))
        lines = []
        for place, key in places:
            comments = [{key: each.get((place, key), "")} for each in (why, where)]
            lines += tables.parameters({key: found[key]}, paper.sections[place], *comments)
        name = f"{self.name}.{section}.parameters" if section else f"{self.name}.parameters"
        caption = f"Parameters{f' of {section}' if section else ''} at tier {self.tier}"
        caption += f", seeds {records.seeds_text(self.seeds)}"
        self.grid(["parameter", "paper", "where", "here", "why"], lines, caption, name)

    def grid(self, header: Sequence[str], rows: Sequence[Sequence[str]], caption: str, name: str) -> None:
        """Show a captioned table of plain text under its label; nothing of it is recorded."""
        self._show(tables.grid(header, [list(row) for row in rows], caption=caption, name=name))

    def _tiers_below_paper(self) -> list[str]:
        chain = settings.tiers()
        return [tier for tier in chain[: chain.index(self.tier) + 1] if tier != "paper"]

    def record(self, rows: Sequence[Record]) -> None:
        """Keep rows among the chapter's records, replacing those of the same id, row and column; saved at once."""
        new = {(row.id, row.row, row.column): replace(row, tier=self.tier) for row in rows}
        self.rows = [row for row in self.rows if (row.id, row.row, row.column) not in new] + list(new.values())
        if not self.exploring and not os.environ.get("REPRO_SEED_JOB"):
            records.save(self.rows, self.name, self.tier, self.seeds)

    def table(self, id: str, rows: Sequence[Record], caption: str, **options: Any) -> None:
        """Keep the rows and show them beside the paper's; options as in tables.beside_published."""
        self.record(rows)
        self._show(tables.beside_published(rows, id=id, caption=caption, **options))

    def claim(
        self, id: str, court: str, evidence: Mapping[str, Interval], seeds: Sequence[int] | None = None
    ) -> ledger.Judgement:
        """Let the claim's rule judge the evidence, show the verdict, and keep the evidence as records."""
        found = [
            record(id, term, court, value, seeds=self.seeds if seeds is None else seeds)
            for term, value in evidence.items()
        ]
        judgement = ledger.judge(id, court, found)
        self.record(found)
        kind, word = WORDS[judgement.verdict]
        label = f"{self.name}.{id}.{court.replace(' ', '_')}"  # a claim may be shown in several courts
        lines = [
            f"- {text.escape(term.replace('_', ' '))}: {text.escape(text.interval(row, 2)) if row else 'not run'}"
            f" (rule: {text.escape(bound.text)}; {verdict})"
            for term, (bound, row, verdict) in judgement.terms.items()
        ]
        head = f"{text.escape(id)} in {court}: {word}"
        claim = f"Claim: {text.escape(judgement.text)}. Paper: {text.escape(judgement.paper)}."
        body = "\n".join(
            [claim, "", *lines, "", f"n {judgement.n or text.number(None)}; seeds {judgement.seeds or 'none'}."]
        )
        self._show(
            tables.bundle(
                f"```{{admonition}} {head}\n:class: {kind}\n:name: {label}\n\n{body}\n```",
                _admonition(head, claim, judgement),
            )
        )
        return judgement

    def parameters(self, id: str, ours: Mapping[str, Any], caption: str) -> None:
        """Show the paper's hyperparameters of an id beside those used here."""
        paper = inventory.entry(id)
        shown = paper if isinstance(paper, dict) else {"data": paper}
        lines = [
            [key, _plain(value), _plain(ours[key]) if key in ours else "not run here"] for key, value in shown.items()
        ]
        self.grid(["parameter", "published", "here"], lines, caption, id)

    def scorecard(self, judgements: Sequence[ledger.Judgement]) -> None:
        """Show the claims that ran with rule, evidence and verdict, then those that did not with their rule."""
        ran = [judgement for judgement in judgements if judgement.verdict != "not run"]
        waiting = [judgement for judgement in judgements if judgement.verdict == "not run"]
        self._show(tables.scorecard(ran, caption=f"Claims judged at tier {self.tier}", name="scorecard.judged"))
        self._show(
            tables.waiting(waiting, caption="Claims that have not run, with their rules", name="scorecard.waiting")
        )

    def coverage(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Show each inventory id with the chapter and cell that meets it, or that it is open."""
        lines = [
            [
                row["id"],
                row["kind"],
                row["title"],
                f"{row['chapter']}, cell {row['cell']}" if row["chapter"] else f"open ({row['planned']})",
            ]
            for row in rows
        ]
        self.grid(["id", "kind", "what", "met by"], lines, "Every inventory id", "coverage")

    def tallies(self, sets: Mapping[str, Mapping[str, Any]], caption: str) -> None:
        """Show how many rows of each public set are used, and how many were set aside for which reason."""
        lines = []
        for name, tally in sets.items():
            reasons = "; ".join(f"{count:,} {reason}" for reason, count in tally["set_aside"].items())
            lines.append([name, f"{tally['rows']:,}", f"{sum(tally['set_aside'].values()):,}", reasons])
        self.grid(["set", "kept", "set aside", "why"], lines, caption, f"{self.name}.rows")

    def glue(self, **values: Any) -> None:
        """Make numbers of this page citable in its prose by {glue:text}; JupyterLab, which leaves that role as it is, shows a line."""
        from myst_nb import glue

        for name, value in values.items():
            shown = text.interval(value, 2) if isinstance(value, (Interval, Record)) else str(value)
            glue(name, shown, display=False)
            note(f"{name.replace('_', ' ')}: {shown}")

    def show_text(self, samples: Mapping[str, str]) -> None:
        """Show model or data text as it is, each under its label; nothing in it is interpreted."""
        self._show(
            {"text/html": "".join(text.block(sample, label) for label, sample in samples.items()), "text/plain": ""}
        )

    def _show(self, content: dict[str, str]) -> None:
        display(content, raw=True)


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _admonition(head: str, claim: str, judgement: ledger.Judgement) -> str:
    import html

    def plain(words: str) -> str:
        return html.escape(words.replace("\\", ""))

    lines = "".join(
        f"<li>{html.escape(term.replace('_', ' '))}: {text.interval(row, text.digits_for(row)) if row else 'not run'} ({html.escape(bound.text)}; {verdict})</li>"
        for term, (bound, row, verdict) in judgement.terms.items()
    )
    return f"<p><b>{plain(head)}</b><br>{plain(claim)}</p><ul>{lines}</ul>"
