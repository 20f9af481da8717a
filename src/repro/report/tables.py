"""Tables: records in; a Markdown table for the book and an HTML one for JupyterLab out, ours beside published."""

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from repro.core import inventory
from repro.core.records import Record
from repro.report.ledger import Judgement
from repro.report.text import digits_for, escape, interval, number

NOT_IN_TEXT = "not in the text"
MARKS = {"holds": "\N{CHECK MARK}", "fails": "\N{MULTIPLICATION X}", "inconclusive": "~", "not run": "\N{MIDDLE DOT}"}
Cells = list[list[str]]


def bundle(markdown: str, page: str) -> dict[str, str]:
    """What a cell shows: Markdown where the book reads it, HTML where JupyterLab does."""
    return {"text/markdown": markdown, "text/html": page, "text/plain": ""}


def grid(header: Sequence[str], rows: Cells, *, caption: str, name: str) -> dict[str, str]:
    """A captioned, labelled table of plain text; cells may hold anything, they show as text. A paper's id is shown."""
    caption = f"{name}: {caption}" if name in inventory.ids() else caption
    width = len(header)
    lines = ["| " + " | ".join(escape(cell) for cell in line) + " |" for line in [list(header), *rows]]
    lines.insert(1, "|" + " --- |" * width)
    directive = f"```{{table}} {escape(caption)}\n:name: {name}\n\n" + "\n".join(lines) + "\n```"
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>" for line in rows)
    page = (
        f"<table><caption>{html.escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )
    return bundle(directive, page)


def _published(value: Any, digits: int) -> str:
    if value is None:
        return "\N{EN DASH}"
    return number(value, digits) if isinstance(value, (int, float)) else str(value)


def _unique(values: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(values))


def beside_published(
    records: Sequence[Record],
    *,
    id: str,
    caption: str,
    name: str | None = None,
    match: Mapping[str, str] | None = None,
    digits: int | Mapping[str, int] = 1,
    context: bool = True,
) -> dict[str, str]:
    """Our rows with interval, n and seeds; under each column the paper's figure for the row it is matched with.

    match: our row -> the paper's row; with a match, the paper's other rows follow as context. An id of our own has nothing
    published. digits: decimals, of all columns or by column; one that begins with # counts things, and has none.
    """
    paper, match = _paper(id, records), dict(match or {})
    columns = _unique([r.column for r in records] + [c for row in (paper or {}).values() for c in row if match])
    by_place = {(record.row, record.column): record for record in records}

    def decimals(column: str) -> int:
        return 0 if column.startswith("#") else digits if isinstance(digits, int) else digits.get(column, 1)

    def printed(row: str) -> list[str]:
        cells = [_published(paper[row].get(column), decimals(column)) for column in columns]
        return [row.replace("_", " "), "published", *cells, "", ""]

    rows: Cells = []
    for row in _unique([record.row for record in records]):
        found = [by_place.get((row, column)) for column in columns]
        known = [record for record in found if record]
        cells = [
            interval(record, decimals(column)) if record else "" for record, column in zip(found, columns, strict=True)
        ]
        rows.append([row, "ours", *cells, _sizes(known), ", ".join(_unique([r.seed for r in known if r.seed]))])
        if row in match and paper:
            rows.append(printed(match[row]))
    rows += [printed(row) for row in paper or {} if match and context and row not in match.values()]
    if paper is None:
        rows.append(["the paper", "published", *([NOT_IN_TEXT] * len(columns)), "", ""])
    return _narrow(["", "source", *columns, "n", "seeds"], rows, caption=caption, name=name or id)


def _paper(id: str, records: Sequence[Record]) -> dict[str, dict[str, Any]] | None:
    """The paper's figures by row and column, a single nameless column under our name; None if its text lost them."""
    paper = inventory.published(id) if id in inventory.ids() else {}
    ours = _unique([record.column for record in records])
    if len(ours) == 1 and paper and all(list(values) == ["value"] for values in paper.values()):
        return {row: {ours[0]: values["value"]} for row, values in paper.items()}
    return paper


def _sizes(records: Sequence[Record]) -> str:
    """The numbers of prompts that a row rests on: one, or from the fewest to the most."""
    sizes = sorted({record.n for record in records if record.n})
    return "" if not sizes else f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,}\N{EN DASH}{sizes[-1]:,}"


def _narrow(header: Sequence[str], rows: Cells, *, caption: str, name: str) -> dict[str, str]:
    """The grid without columns that say nothing: all empty, or `ours` throughout."""
    kept = [
        k for k in range(len(header)) if {row[k] for row in rows} - ({"", "ours"} if header[k] == "source" else {""})
    ]
    return grid([header[k] for k in kept], [[row[k] for k in kept] for row in rows], caption=caption, name=name)


def _rule(judgement: Judgement) -> str:
    """The rule's terms, those of one bound together: `above 0: chat, safety`."""
    by_bound: dict[str, list[str]] = {}
    for term, (bound, _, _) in judgement.terms.items():
        by_bound.setdefault(bound.text, []).append(term.replace("_", " "))
    return "; ".join(f"{bound}: {', '.join(terms)}" for bound, terms in by_bound.items())


def _evidence(judgement: Judgement) -> str:
    parts = [
        f"{term.replace('_', ' ')} {interval(record, digits_for(record))}"
        for term, (_, record, _) in judgement.terms.items()
        if record
    ]
    return "; ".join(parts) or "\N{EN DASH}"


def scorecard(judgements: Sequence[Judgement], *, caption: str, name: str) -> dict[str, str]:
    """Claims by line: verdict, the paper's number, the rule, ours with interval, n and seeds."""
    rows = [
        [
            f"{MARKS[judgement.verdict]} {judgement.verdict}",
            judgement.claim,
            judgement.text,
            judgement.court,
            judgement.paper,
            _rule(judgement),
            _evidence(judgement),
            judgement.n,
            judgement.seeds,
        ]
        for judgement in judgements
    ]
    header = ["verdict", "id", "claim", "court", "paper", "rule", "ours", "n", "seeds"]
    return grid(header, rows, caption=caption, name=name)


def waiting(judgements: Sequence[Judgement], *, caption: str, name: str) -> dict[str, str]:
    """Claims without evidence yet: the paper's number and the rule that will judge them."""
    rows = [[j.verdict, j.claim, j.text, j.court, j.paper, _rule(j)] for j in judgements]
    return grid(["verdict", "id", "claim", "court", "paper", "rule"], rows, caption=caption, name=name)


def parameters(
    settings: Mapping[str, Any], paper: Mapping[str, Any], why: Mapping[str, str], where: Mapping[str, str]
) -> Cells:
    """One line per parameter: the paper's value and where it stands, the value here and why it differs."""

    def show(value: Any) -> str:
        return "none" if value is None else value if isinstance(value, str) else json.dumps(value)

    return [
        [
            key,
            show(paper[key]),
            where.get(key, ""),
            "the same" if value == paper[key] else show(value),
            "" if value == paper[key] else why.get(key, ""),
        ]
        for key, value in settings.items()
        if key in paper
    ]
