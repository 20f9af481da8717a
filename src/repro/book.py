"""The book: executed pages of one tier, a placeholder for every label that no page defines yet, built offline.

Jupyter Book reads `book/chapters` and `book/_toc.yml`, both written here; warnings are errors.
"""

import hashlib
import html
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from filelock import FileLock

from repro.batch import chapters, page
from repro.batch.chapters import SCORECARD, Place, write
from repro.core import inventory, paths
from repro.core.errors import ArtifactError

OPEN = "98_open"
LABELLED = ("equations", "algorithms", "tables", "figures")  # what other pages refer to whether or not it has run
STAMP = ".built.json"


def index() -> Path:
    """The built book's first page."""
    return paths.BOOK / "_build" / "html" / "index.html"


def _texts(file: Path) -> list[str]:
    """The Markdown of a page: cells, and outputs that are Markdown."""
    if file.suffix == ".md":
        return [file.read_text()]
    found = []
    for cell in json.loads(file.read_text())["cells"]:
        if cell["cell_type"] == "markdown":
            found.append("".join(cell["source"]))
        for output in cell.get("outputs", []):
            if markdown := output.get("data", {}).get("text/markdown"):
                found.append("".join(markdown))
    return found


def _drawn(file: Path) -> set[str]:
    """Labels that code cells give to the images they drew."""
    found = set()
    for cell in json.loads(file.read_text())["cells"] if file.suffix == ".ipynb" else []:
        name = cell.get("metadata", {}).get("mystnb", {}).get("figure", {}).get("name")
        kinds = {kind for output in cell.get("outputs", []) for kind in output.get("data", {})}
        if name and any(kind.startswith("image/") for kind in kinds):
            found.add(name)
    return found


def defined(file: Path) -> set[str]:
    """Labels that a page defines: of equations, figures, tables and places in the text."""
    text = "\n".join(_texts(file))
    forms = (r"^\s*:(?:label|name):[ \t]*(\S+)", r"^\(([^)\s]+)\)=", r"\$\$[ \t]*\(([^)\s]+)\)")
    return _drawn(file) | {name for form in forms for name in re.findall(form, text, re.MULTILINE)}


def referred(file: Path) -> dict[str, str]:
    """Labels that a page refers to, each with the role that refers to it."""
    found = re.findall(r"\{(eq|numref|ref)\}`(?:[^`<>]*<)?([^`<>]+)>?`", "\n".join(_texts(file)))
    return {label: role for role, label in found}


def _reason(chapter: str, tier: str) -> str:
    place = Place(chapter, tier)
    if not place.notebook.exists():
        return "its chapter is not written yet"
    state = chapters.read(place.status).get("state", "not run")
    words = {
        "done": "its chapter ran and does not show it",
        "failed": "its chapter failed",
        "skipped": "its chapter was skipped, input is missing",
    }
    return words.get(state, f"its chapter has not run at the tier {tier}")


def _placeholder(id: str, kind: str, reason: str) -> str:
    """A labelled thing of the right kind, so that references to it resolve."""
    title = f"{id}: {_plain(id)}"
    if kind == "equations":
        words = re.sub(r"[^A-Za-z0-9 .,:;()+=/-]", " ", reason)
        return f"{title}\n\n```{{math}}\n:label: {id}\n\\text{{{words}}}\n```\n"
    if kind == "tables":
        return f"```{{table}} {title} ({reason})\n:name: {id}\n\n| {id} |\n| --- |\n| not run |\n```\n"
    return f"```{{figure}} ../static/not-run.svg\n:name: {id}\n:alt: not run yet\n:width: 12em\n\n{title} ({reason})\n```\n"


def _plain(id: str) -> str:
    """What an id is, as text that Markdown does not interpret."""
    return re.sub(r"([\\`*_{}\[\]<>#$|~^])", r"\\\1", inventory.title(id))


def _open_page(pages: list[Path], tier: str) -> str | None:
    """The page of what is not shown yet: a placeholder where another page refers to it, a line otherwise; None if all is."""
    have = {label for file in pages for label in defined(file)}
    roles = {label: role for file in pages for label, role in referred(file).items()}
    planned = {id: chapter for chapter, about in inventory.chapters().items() for id in about["ids"]}
    missing = {id: kind for id, kind in inventory.ids().items() if id not in have and (kind in LABELLED or id in roles)}
    if not missing:
        return None
    reasons = {id: _reason(planned.get(id, ""), tier) for id in missing}
    parts = [
        "# Not run yet\n\nThe papers' tables, figures, equations and algorithms that no page of this book shows yet.\n"
    ]
    for id, kind in missing.items():
        if id in roles:
            shown = "equations" if roles[id] == "eq" else "figures" if kind == "equations" else kind
            parts.append(_placeholder(id, shown, reasons[id]))
    parts.append("| id | what | why not |\n| --- | --- | --- |")
    parts += [f"| {id} | {_plain(id)} | {reasons[id]} |" for id in missing if id not in roles]
    return "\n".join(parts) + "\n"


def _put(file: Path, text: str) -> None:
    """Write a page only if it says something new, so that an unchanged book is not built again."""
    if not file.exists() or file.read_text() != text:
        write(file, text)


def gather(tier: str) -> list[Path]:
    """Bring the tier's pages into book/chapters, a stub for each chapter that has not run; the pages in order."""
    names = [name for name in chapters.available() if name != SCORECARD] + [SCORECARD]
    pages = []
    for name in names:
        place, target = Place(name, tier), paths.CHAPTERS / f"{name}.ipynb"
        title = chapters.title(name) if place.notebook.exists() else "Scorecard"
        _put(target, place.page.read_text() if place.page.exists() else page.stub(title, tier))
        pages.append(target)
    placeholders = paths.CHAPTERS / f"{OPEN}.md"
    if text := _open_page([paths.BOOK / "intro.md", *pages], tier):
        _put(placeholders, text)
        pages.append(placeholders)
    for file in paths.CHAPTERS.glob("*"):
        if file.is_file() and file not in pages:
            file.unlink()
    return pages


def _contents(pages: list[Path]) -> str:
    """The table of contents: a part per paper, and what spans them."""
    parts: dict[str, list[dict[str, str]]] = {}
    for file in pages:
        prefix = file.stem.split("_")[0]
        paper = inventory.inventory().get("papers", {}).get(prefix)
        caption = (
            f"Paper {prefix[1:]}: {paper['title']}"
            if paper
            else "Start here"
            if file.stem.startswith("0")
            else "Across the papers"
        )
        parts.setdefault(caption, []).append({"file": f"chapters/{file.stem}"})
    order = sorted(parts, key=lambda caption: (caption != "Start here", not caption.startswith("Paper"), caption))
    toc = {"format": "jb-book", "root": "intro", "parts": [{"caption": c, "chapters": parts[c]} for c in order]}
    return "# written by `repro run`; edit the inventory's chapters instead\n" + yaml.safe_dump(
        toc, sort_keys=False, allow_unicode=True
    )


def _digest(pages: list[Path]) -> str:
    """Digest of all that the built book is made from."""
    sources = [
        *pages,
        *(f for f in paths.BOOK.glob("*") if f.is_file()),
        *(f for f in (paths.BOOK / "static").rglob("*") if f.is_file()),
    ]
    found = hashlib.sha256()
    for file in sorted(sources):
        found.update(str(file.relative_to(paths.BOOK)).encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()


def _warnings(text: str) -> str:
    """The first warnings of the build's output, or its last lines."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    lines = [line.strip() for line in plain.splitlines() if re.search(r"WARNING|ERROR|Exception", line)]
    return "\n  ".join(lines[:8] or plain.strip().splitlines()[-5:])


def _settle(folder: Path) -> None:
    """Take out the theme's early loading of fonts, which a browser refuses on files; the style sheet loads them anyway."""
    for file in folder.rglob("*.html"):
        text = file.read_text()
        if (settled := re.sub(r"<link rel=\"preload\"[^>]*as=\"font\"[^>]*>\s*", "", text)) != text:
            file.write_text(settled)


def build(tier: str) -> Path:
    """Build the book from a tier's pages, unless it stands as they would make it; the path of its first page.

    Raises ArtifactError naming the first warnings, which count as errors; the pages are written all the same.
    """
    home = paths.BOOK / "_build"
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / ".lock"):
        pages = gather(tier)
        _put(paths.BOOK / "_toc.yml", _contents(pages))
        stamp, digest = home / STAMP, _digest(pages)
        if index().exists() and chapters.read(stamp).get("digest") == digest:
            return index()
        stamp.unlink(missing_ok=True)
        # a label that moves to another page must be looked up anew on every page: nothing of the last build is kept
        for left in ("html", ".doctrees"):
            shutil.rmtree(home / left, ignore_errors=True)
        command = [
            sys.executable,
            "-c",
            "from jupyter_book.cli.main import main; main()",
            "build",
            str(paths.BOOK),
            "-W",
            "-n",
            "--keep-going",
            "--all",
        ]
        done = subprocess.run(command, capture_output=True, text=True, cwd=paths.BOOK)
        _settle(home / "html")
        log = home / "build.log"
        log.write_text(done.stdout + done.stderr)
        if done.returncode or not index().exists():
            words = "the book was built with warnings" if index().exists() else "the book was not built"
            raise ArtifactError(
                f"{words}:\n  {_warnings(done.stderr + done.stdout)}", where=log, fix="correct the pages named"
            )
        write(stamp, {"digest": digest, "tier": tier})
        return index()


def external_addresses(folder: Path) -> list[str]:
    """Addresses outside that a built page would fetch by itself: scripts, style sheets, images, fonts, preconnections."""
    fetching = r"<(?:script|link|img|iframe|source|video|audio)\b[^>]*?(?:src|href)=[\"']((?:https?:)?//[^\"']+)"
    found = []
    for file in sorted(folder.rglob("*.html")):
        found += [f"{file.relative_to(folder)}: {html.unescape(url)}" for url in re.findall(fetching, file.read_text())]
    for file in sorted(folder.rglob("*.css")):
        found += [
            f"{file.relative_to(folder)}: {url}"
            for url in re.findall(r"(?:url\(|@import\s)[\"']?(https?://[^\"')]+)", file.read_text(errors="replace"))
        ]
    return found
