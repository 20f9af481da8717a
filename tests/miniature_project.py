"""A project of five tiny chapters in a temporary folder, run as a user runs the real one: in a process of its own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import psutil
import yaml

HOME = Path(__file__).resolve().parents[1]
NASTY = '<script>alert(1)</script> **bold** $x$ {eq}`nothing`\n\n::::\n# not a heading'

TELL = """import os, time
from repro.core.errors import MissingInput
from repro.core.paths import runs_folder
with (runs_folder() / "ran.txt").open("a") as log:
    log.write(f"{NAME} {seeds} {os.environ.get('REPRO_SEED_JOB', '')} {os.getppid()} {os.getpid()}\\n")"""
GOOD = """import matplotlib.pyplot as plt
from IPython.display import Markdown, display
_ = plt.plot([0, 1], [0, 1])"""
TABLE = '''display(Markdown("""```{table} Small numbers
:name: p1.table1

| a | b |
| --- | --- |
| 1 | 2 |
```"""))'''
PROSE = r"""Equation {eq}`p1.eq1` is here, {eq}`p1.eq2` is not; {numref}`p1.fig3` and {numref}`p1.table1`, {ref}`p1.c1`.

$$
a^2 + \sqrt{b} = \mathbb{E}[c]
$$ (p1.eq1)"""


def notebook(name: str, *cells: str, title: str = "", **about) -> nbformat.NotebookNode:
    """Title, parameters, a cell that notes the execution, then the given cells; `md:` opens a Markdown cell."""
    made = [nbformat.v4.new_markdown_cell(f"# {title or name}")]
    parameters = nbformat.v4.new_code_cell('tier = "smoke"\nseeds = [0]\noverrides = {}', metadata={"tags": ["parameters"]})
    made += [parameters, nbformat.v4.new_code_cell(TELL.replace("{NAME}", name))]
    for text in cells:
        made.append(nbformat.v4.new_markdown_cell(text[3:]) if text.startswith("md:") else nbformat.v4.new_code_cell(text))
        if text == GOOD:
            made[-1].metadata["mystnb"] = {"figure": {"caption": "A line.", "name": "p1.fig4"}}
    found = nbformat.v4.new_notebook(cells=made, metadata={"repro": about} if about else {})
    for number, cell in enumerate(found.cells):
        cell.id = f"cell{number}"
    return found


INVENTORY = {
    "papers": {"p1": {"title": "A first paper", "cite": "x"}, "p2": {"title": "A second paper", "cite": "y"}},
    "equations": {"p1.eq1": "a sum", "p1.eq2": "a difference, x_i - y*"},
    "algorithms": {},
    "tables": {"p1.table1": {"title": "numbers"}},
    "figures": {"p1.fig3": {"title": "a figure <b>"}, "p1.fig4": {"title": "a line"}},
    "hyperparameters": {},
    "claims": {"p1.c1": {"text": "more is more", "paper": 1, "courts": {}}},
    "chapters": {
        "00_tour": {"title": "Tour", "ids": ["p1.eq1", "p1.fig4", "p1.table1"]},
        "p1_01_wrong": {"title": "Wrong", "ids": ["p1.eq2"]},
        "p1_02_absent": {"title": "Absent", "ids": ["p1.fig3", "p1.c1"]},
        "p2_01_slow": {"title": "Slow", "ids": []},
        "p2_02_planned": {"title": "Planned", "ids": []},
        "99_scorecard": {"title": "Scorecard", "ids": []},
    },
}


def make(folder: Path, scorecard: bool = True) -> "Project":
    """Lay the project out in a folder."""
    for name in ("workflow", "book/static"):
        shutil.copytree(HOME / name, folder / name)
    for name in ("_config.yml", "references.bib"):
        shutil.copy(HOME / "book" / name, folder / "book" / name)
    (folder / "book" / "intro.md").write_text("# A book\n\nSee {numref}`p1.fig4` and {doc}`the scorecard <chapters/99_scorecard>`.\n")
    (folder / "book" / "inventory.yaml").write_text(yaml.safe_dump(INVENTORY, sort_keys=False))
    for name, text in {"paper": "shared: {seconds: 9}\n", "smoke": "extends: paper\nshared: {seconds: 1}\n"}.items():
        (folder / "params").mkdir(exist_ok=True)
        (folder / "params" / f"{name}.yaml").write_text(text)
    project = Project(folder)
    project.put("00_tour", GOOD, "md:" + PROSE, TABLE, f"print({NASTY!r})")
    project.put("p1_01_wrong", "md:Found: {glue:text}`number`.", f"raise ValueError({NASTY!r})", "md:Behind: {glue:text}`never`.\n\n(p1.behind)=")
    project.put("p1_02_absent", 'raise MissingInput("no pairs", where="hh-rlhf", fix="`repro data fetch` brings it")')
    project.put("p2_01_slow", "time.sleep(float(os.environ.get('SLOW', 0)))", per_seed=True)
    if scorecard:
        project.put("99_scorecard", 'print("judged")')
    return project


class Project:
    """The folder, and what tests do with it."""

    def __init__(self, folder: Path):
        self.folder = folder

    def put(self, name: str, *cells: str, **about) -> None:
        """Write a chapter's notebook."""
        file = self.folder / "notebooks" / f"{name}.ipynb"
        file.parent.mkdir(exist_ok=True)
        nbformat.write(notebook(name, *cells, **about), file)

    def environment(self, **more: str) -> dict[str, str]:
        own = {"REPRO_ROOT": str(self.folder), "REPRO_RUNS": str(self.folder / "runs"), "PYTHONPATH": str(HOME / "src")}
        return {k: v for k, v in os.environ.items() if k not in ("REPRO_DATA", "REPRO_MODELS")} | own | more

    def start(self, seeds="0", jobs=2, only=None, book=False, profile=None, **more: str) -> subprocess.Popen:
        """Start a run and return its process."""
        (self.folder / "runs").mkdir(exist_ok=True)
        call = f"run('smoke', {seeds!r}, {jobs}, only={only!r}, profile={profile!r}, build_book={book})"
        command = [sys.executable, "-c", f"import sys; from repro.run import run; sys.exit({call})"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.environment(**more))

    def run(self, **words) -> tuple[int, str]:
        """Run to the end: exit status and what the terminal showed."""
        process = self.start(**words)
        out = process.communicate(timeout=120)[0]
        return process.returncode, out

    def ran(self) -> list[str]:
        """Chapters in the order in which their notebooks were executed."""
        file = self.folder / "runs" / "ran.txt"
        return [line.split(" ")[0] for line in file.read_text().splitlines()] if file.exists() else []

    def lines(self) -> list[str]:
        return (self.folder / "runs" / "ran.txt").read_text().splitlines()

    def forget(self) -> None:
        """Start counting executions afresh."""
        (self.folder / "runs" / "ran.txt").unlink(missing_ok=True)

    def status(self, name: str) -> dict:
        return json.loads((self.folder / "runs/state/smoke" / f"{name}.status.json").read_text())

    def page(self, name: str) -> nbformat.NotebookNode:
        return nbformat.read(self.folder / "runs/pages/smoke" / f"{name}.ipynb", 4)

    def kernels(self) -> list[int]:
        """Kernels of this project that are still there, by the numbers that they wrote down themselves."""
        numbers = [int(line.split(" ")[-1]) for line in self.lines()]
        return [n for n in numbers if psutil.pid_exists(n) and psutil.Process(n).status() != psutil.STATUS_ZOMBIE]
