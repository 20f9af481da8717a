"""The book: builds with warnings as errors, offline, and every label resolves whatever has run."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from miniature_project import INVENTORY, make

CHROMIUM = next((Path(place) for place in ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome") if Path(place).exists()), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The miniature, run whole and built: the project and what the terminal showed."""
    project = make(tmp_path_factory.mktemp("book"))
    return project, *project.run(book=True)


def html(project, name):
    return (project.folder / "book/_build/html" / f"{name}.html").read_text()


def test_it_builds_without_a_warning_though_chapters_failed_and_were_skipped(built):
    project, status, shown = built
    assert status == 1  # of the chapter that fails, not of the book
    assert re.search(r"book: \S+index\.html", shown) and "built with warnings" not in shown, shown
    assert (project.folder / "book/_build/html/index.html").exists()


def test_every_label_resolves_to_where_it_is_or_to_its_placeholder(built):
    project = built[0]
    tour, waiting = html(project, "chapters/00_tour"), html(project, "chapters/98_open")
    assert 'href="#equation-p1-eq1"' in tour and 'href="98_open.html#equation-p1-eq2"' in tour
    assert 'href="98_open.html#p1-fig3"' in tour and 'href="#p1-table1"' in tour
    assert 'id="p1-fig3"' in waiting and "its chapter was skipped" in waiting and "its chapter failed" in waiting
    assert "p1.fig4" not in waiting  # it was drawn
    assert re.search(r'href="chapters/00_tour.html#p1-fig4"><span[^>]*>Figure 1<', html(project, "intro"))


def test_text_from_models_and_errors_stays_text(built):
    for name in ("chapters/00_tour", "chapters/p1_01_wrong"):
        page = html(built[0], name)
        assert "&lt;script&gt;alert(1)" in page and "<script>alert(1)" not in page
        assert "<strong>bold" not in page and "<h1>not a heading" not in page


def test_nothing_on_a_page_is_fetched_from_outside(built):
    from repro import book

    folder = built[0].folder / "book/_build/html"
    assert book.external_addresses(folder) == []
    assert "unpkg" not in html(built[0], "chapters/00_tour")
    page = folder / "chapters" / "planted.html"
    page.write_text('<script async src="https://cdn.example/a.js"></script><img src="//cdn.example/b.png">')
    assert len(book.external_addresses(folder)) == 2
    page.unlink()


def test_an_unchanged_book_is_not_built_again_and_another_tier_has_its_own_pages(built):
    project = built[0]
    call = "from repro import book; print(book.build({!r}))"

    def build(tier):
        return subprocess.run([sys.executable, "-c", call.format(tier)], env=project.environment(), capture_output=True, text=True, check=True).stdout

    index = project.folder / "book/_build/html/index.html"
    before = index.stat().st_mtime_ns
    assert build("smoke").strip() == str(index) and index.stat().st_mtime_ns == before
    build("paper")
    assert "has not run at the tier <code" in html(project, "chapters/00_tour")
    build("smoke")
    assert "Table 1" in html(project, "chapters/00_tour")


def test_a_broken_reference_is_an_error_that_names_the_page(tmp_path, monkeypatch):
    from repro import book
    from repro.core import paths
    from repro.core.errors import ArtifactError

    project = make(tmp_path)
    for name, folder in {"ROOT": "", "BOOK": "book", "CHAPTERS": "book/chapters", "NOTEBOOKS": "notebooks"}.items():
        monkeypatch.setattr(paths, name, tmp_path / folder)
    monkeypatch.setenv("REPRO_RUNS", str(tmp_path / "runs"))
    (tmp_path / "book/intro.md").write_text("# A book\n\n{numref}`p9.fig1`\n")
    with pytest.raises(ArtifactError, match=r"intro.md:3.*p9.fig1"):
        book.build("smoke")
    assert project.folder == tmp_path


def test_placeholders_are_of_the_kind_that_the_reference_asks_for(tmp_path, monkeypatch):
    """An equation that `numref` names needs a figure's number, one that `eq` names needs an equation's."""
    from repro import book
    from repro.core import paths

    make(tmp_path)
    monkeypatch.setattr(paths, "BOOK", tmp_path / "book")
    monkeypatch.setattr(paths, "NOTEBOOKS", tmp_path / "notebooks")
    page = tmp_path / "page.md"
    table, unreferred = next(iter(INVENTORY["tables"])), next(iter(INVENTORY["figures"]))
    page.write_text("{numref}`that one <p1.eq1>` {eq}`p1.eq2` {ref}`p1.c1` {numref}`" + table + "`")
    text = book._open_page([page], "smoke")
    kinds = dict(re.findall(r"```\{(\w+)\}[^\n]*\n:(?:label|name): (\S+)", text))
    assert re.search(r"```\{figure\}[^\n]*\n:name: p1.eq1", text) and ":label: p1.eq2" in text and ":name: p1.c1" in text
    assert set(kinds) == {"figure", "math", "table"} and f"| {unreferred} |" in text
    page.write_text("\n".join(f"({id})=" for kind in book.LABELLED for id in INVENTORY[kind]))
    assert book._open_page([page], "smoke") is None


def test_every_form_of_label_is_seen(tmp_path):
    from repro import book

    page = tmp_path / "page.ipynb"
    drawn = {"cell_type": "code", "source": "", "metadata": {"mystnb": {"figure": {"name": "a.fig"}}}, "outputs": [{"data": {"image/png": "x"}}]}
    empty = {**drawn, "metadata": {"mystnb": {"figure": {"name": "b.fig"}}}, "outputs": []}
    table = {"cell_type": "code", "source": "", "metadata": {}, "outputs": [{"data": {"text/markdown": ["```{table} T\n", ":name: c.table\n"]}}]}
    prose = {"cell_type": "markdown", "metadata": {}, "source": ["$$\n", "x\n", "$$ (d.eq)\n", "(e.place)=\n", ":label: f.eq\n", "see {eq}`g.eq`"]}
    page.write_text(json.dumps({"cells": [drawn, empty, table, prose]}))
    assert book.defined(page) == {"a.fig", "c.table", "d.eq", "e.place", "f.eq"}
    assert book.referred(page) == {"g.eq": "eq"}


def looked_at(context, file):
    """What is wrong with a page, and how many equations it drew: console errors, failed requests, images not loaded."""
    wrong = []
    page = context.new_page()
    page.on("console", lambda message: wrong.append((file.name, message.text)) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append((file.name, str(error))))
    page.on("requestfailed", lambda request: wrong.append((file.name, request.url)))
    page.goto(file.as_uri(), wait_until="load")
    if page.locator("div.math, span.math").count():
        page.wait_for_selector("mjx-container", timeout=10_000)
    equations = page.locator("mjx-container").count()
    wrong += [(file.name, source) for source in page.evaluate("[...document.images].filter(i => !i.naturalWidth).map(i => i.src)")]
    wrong += [(file.name, size) for size in page.evaluate("[...document.fonts].filter(f => f.status == 'error').map(f => f.family)")]
    theme = page.evaluate("document.documentElement.dataset.theme")
    page.close()
    return wrong, equations, theme


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine; `apt-get install chromium` brings it")
def test_a_browser_without_network_shows_every_page_whole(built):
    """Nothing wrong on any page, equations drawn, in light and in dark; the search finds a chapter."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; `pip install playwright` brings it")
    folder = built[0].folder / "book/_build/html"
    found = [file for file in sorted(folder.rglob("*.html")) if "_static" not in file.parts]
    pages = [file for file in found if 'http-equiv="refresh"' not in file.read_text().lower()]  # the index leads on to the intro
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        for scheme in ("light", "dark"):
            context = browser.new_context(offline=True, color_scheme=scheme)
            for file in pages if scheme == "light" else pages[:1]:
                wrong, equations, theme = looked_at(context, file)
                assert wrong == [] and theme == scheme
                assert equations == (1 if file.name in ("00_tour.html", "98_open.html") else 0)
        page = browser.new_context(offline=True).new_page()
        page.goto((folder / "search.html").as_uri() + "?q=tour")
        page.wait_for_selector("#search-results li", timeout=10_000)
        browser.close()
