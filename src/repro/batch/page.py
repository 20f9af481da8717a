"""An executed notebook made into a page of the book: what ran, what went wrong, and a footer."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from importlib import metadata
from platform import python_version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a second to import, which a run with nothing to do need not spend
    from nbformat import NotebookNode

PAPERMILL_ERROR = "papermill-error-cell-tag"
WIDGET = "application/vnd.jupyter.widget-view+json"


@dataclass(frozen=True)
class Failure:
    """Why a chapter did not finish: the error's name and words, and the number of the code cell (None: before any)."""

    name: str
    words: str
    cell: int | None = None

    @property
    def skipped(self) -> bool:
        """Whether input is absent, rather than something wrong."""
        return self.name == "MissingInput"

    @property
    def line(self) -> str:
        """In one line."""
        return " ".join(f"{self.name}: {self.words}".split())


def _code(notebook: NotebookNode) -> list[NotebookNode]:
    """The code cells that the author wrote, in order."""
    added = {PAPERMILL_ERROR, "injected-parameters"}
    return [
        cell for cell in notebook.cells if cell.cell_type == "code" and not added & set(cell.metadata.get("tags", []))
    ]


def failure_in(notebook: NotebookNode) -> Failure | None:
    """The first error among the cells' outputs."""
    for number, cell in enumerate(_code(notebook), start=1):
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                return Failure(output.ename, output.evalue, number)
    return None


def running_cell(notebook: NotebookNode) -> int | None:
    """The number of the code cell that had begun and not ended; None if no cell ever began."""
    begun = [
        number
        for number, cell in enumerate(_code(notebook), start=1)
        if cell.metadata.get("papermill", {}).get("start_time")
    ]
    return begun[-1] if begun else None


def _clean(notebook: NotebookNode) -> list[NotebookNode]:
    """The cells without what papermill added, and without widgets, which only a running kernel can draw."""
    cells: list[NotebookNode] = []
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if PAPERMILL_ERROR in tags:
            continue
        if "injected-parameters" in tags and cells and "parameters" in cells[-1].metadata.get("tags", []):
            lines = [line for line in cell.source.splitlines() if not line.startswith("# ")]
            cells[-1].source = "\n".join(lines)  # the page shows the parameters that it ran with, once
            continue
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
        cells.append(cell)
    return cells


def _until(cells: list[NotebookNode], failure: Failure) -> list[NotebookNode]:
    """The cells as far as the chapter came; a glued number there may never have been computed."""
    kept: list[NotebookNode] = []
    code = 0
    for cell in cells:
        code += cell.cell_type == "code"
        if cell.cell_type == "code" and failure.cell is not None and code >= failure.cell:
            kept += [] if failure.skipped else [cell]
            break
        if cell.cell_type == "code" and failure.cell is None:
            break
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\{glue:[^}]*\}`[^`]*`", "\N{EN DASH}", cell.source)
        kept.append(cell)
    return kept


def literal(text: str) -> str:
    """Text as HTML that shows exactly what it holds, on one line of source so that nothing in it ends the block."""
    clean = re.sub(r"\x1b\[[0-9;]*m", "", text)
    clean = re.sub(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", clean)
    return html.escape(clean).replace("\n", "&#10;")


def notice(failure: Failure, left_out: int = 0) -> str:
    """The box at the top of a page that failed or was skipped."""
    title = "This chapter was skipped: input is missing" if failure.skipped else "This chapter failed"
    kind = "warning" if failure.skipped else "danger"
    words = failure.words.replace("\n  ", "; ") if failure.skipped else f"{failure.name}: {failure.words}"
    where = "" if failure.skipped or failure.cell is None else "The last cell shown here raised it. "
    rest = "What comes behind did not run and is left out." if left_out else ""
    body = f'<pre class="repro-error mathjax_ignore">{literal(words)}</pre>'
    return f"::::{{admonition}} {title}\n:class: {kind}\n\n{body}\n\n{where}{rest}\n::::"


def versions() -> str:
    """Versions of Python, torch and transformers."""
    found = [f"Python {python_version()}"]
    for name in ("torch", "transformers"):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def footer(facts: dict[str, Any]) -> str:
    """The page's last lines, in small type, from facts by name."""
    parts = [
        f"{html.escape(name)} {html.escape(str(value))}" for name, value in facts.items() if value not in (None, "")
    ]
    return f'<div class="repro-footer">{" · ".join(parts)}</div>'


def compose(notebook: NotebookNode, failure: Failure | None, facts: dict[str, Any]) -> str:
    """The page as notebook text: cleaned, a notice under the title if it failed, the footer last."""
    import nbformat

    cells = _clean(notebook)
    if failure:
        kept = _until(cells, failure)
        box = nbformat.v4.new_markdown_cell(notice(failure, len(cells) - len(kept)), id="notice")
        titled = next((i for i, cell in enumerate(kept) if cell.cell_type == "markdown"), -1)
        cells = [*kept[: titled + 1], box, *kept[titled + 1 :]]
    cells.append(nbformat.v4.new_markdown_cell(footer(facts), id="footer"))
    page = nbformat.v4.new_notebook(cells=cells)
    page.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    page.metadata["language_info"] = {"name": "python"}
    return nbformat.writes(page)


def stub(title: str, tier: str) -> str:
    """A page for a chapter that has not run at a tier."""
    import nbformat

    box = f"```{{admonition}} Not run yet\nThis chapter has not run at the tier `{tier}`.\n```"
    cells = [nbformat.v4.new_markdown_cell(f"# {title}\n\n{box}", id="stub")]
    return nbformat.writes(nbformat.v4.new_notebook(cells=cells))
