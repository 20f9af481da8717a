"""The house rules of the project, read from its own source: who imports whom, sizes, words, and what is tracked."""

import ast
import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "repro"
BELOW_PAPERS = {"core", "objectives", "world", "data", "models", "train", "gradients", "judges", "evaluate"}
ROOMS = {  # a room and the rooms it may import from; nothing points back
    "core": set(),
    "objectives": {"core"},
    "world": {"core"},
    "data": {"core", "world"},
    "models": {"core"},
    "train": {"core", "objectives", "data", "models"},
    "gradients": {"core", "objectives", "models"},
    "judges": {"core", "models"},
    "evaluate": {"core", "data", "models", "judges", "world"},
    "papers": BELOW_PAPERS,
    "report": {"core"},
    "front": {"core"},
}
FRONT = {"cli", "run", "batch", "book", "__main__"}  # the thin front: command line, runner and book, one room
LATE = {"front": {"report", "data"}}  # what a command may reach inside its own function, so that the rest starts fast
NO_TORCH = {"core", "report", "front"}
FILE_LINES, FUNCTION_LINES, TRACKED_BYTES = 300, 40, 1_000_000

HOUSE = sorted(path for room in ("src", "scripts", "benchmarks") for path in (ROOT / room).rglob("*.py"))
PYTHON = sorted({*HOUSE, *(ROOT / "tests").rglob("*.py")})
TREES = {path: ast.parse(path.read_text(encoding="utf-8"), str(path)) for path in PYTHON}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tracked() -> list[Path]:
    """Files in the repository; in a copy without history, every file outside what runs and installations make."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0:
        return [path for each in listed.stdout.split("\0") if each and (path := ROOT / each).is_file()]
    made = {".venv", "runs", "data", ".git", "_build", "chapters", "__pycache__", ".snakemake"}
    return [path for path in ROOT.rglob("*") if path.is_file() and not made & set(path.relative_to(ROOT).parts)]


def text_of(path: Path) -> str:
    """The file's text; empty for a picture or another binary."""
    body = path.read_bytes()
    return "" if b"\0" in body[:8000] else body.decode("utf-8", "replace")


def room_of(path: Path) -> str | None:
    """The room a module of the package lives in; None for the package's own __init__."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "front" if first in FRONT else None if first == "__init__" else first


def imports(tree: ast.AST, package: tuple[str, ...] = ()) -> list[tuple[str, bool]]:
    """Every imported dotted name, and whether it is imported inside a function; relative ones made absolute."""
    inside = {id(node) for function in ast.walk(tree) if isinstance(function, ast.FunctionDef) for node in ast.walk(function)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in inside) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            origin = ".".join([*above, *([node.module] if node.module else [])])
            found += [(f"{origin}.{alias.name}", id(node) in inside) for alias in node.names]
    return found


def wrong_imports(room: str, tree: ast.AST, package: tuple[str, ...] = ()) -> list[str]:
    """Imports of other rooms that this room's line does not name."""
    wrong = []
    for target, inside in imports(tree, package):
        parts = target.split(".")
        if parts[0] != "repro" or len(parts) == 1:
            continue
        other = "front" if parts[1] in FRONT else parts[1]
        allowed = ROOMS[room] | {room} | (LATE.get(room, set()) if inside else set())
        if other not in allowed and not other.startswith("__"):
            wrong.append(target)
    return wrong


def functions(tree: ast.AST) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def public_functions(tree: ast.Module) -> list[ast.FunctionDef]:
    """Functions of the module and methods of its public classes whose names have no leading underscore."""
    owners = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_"))]
    return [node for owner in owners for node in owner.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]


def is_property(function: ast.FunctionDef) -> bool:
    return any(isinstance(mark, ast.Name) and mark.id.endswith("property") for mark in function.decorator_list)


def untyped(function: ast.FunctionDef) -> list[str]:
    """Names of arguments without a type, and `return` if the result has none."""
    given = function.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, [given.vararg, given.kwarg])]
    bare = [argument.arg for argument in every if argument.annotation is None and argument.arg not in ("self", "cls")]
    return bare + (["return"] if function.returns is None else [])


def test_every_folder_of_the_package_is_a_room():
    rooms = {room_of(path) for path in TREES if path.is_relative_to(PACKAGE)} - {None}
    assert rooms <= set(ROOMS), f"not in the design: {rooms - set(ROOMS)}"


@pytest.mark.parametrize("path", [path for path in TREES if path.is_relative_to(PACKAGE)], ids=name)
def test_a_room_imports_only_from_the_rooms_on_its_line(path):
    room = room_of(path)
    package = ("repro", *path.relative_to(PACKAGE).parts[:-1])
    wrong = wrong_imports(room, TREES[path], package) if room else [each for each, _ in imports(TREES[path], package)]
    assert wrong == []


def test_the_map_of_rooms_has_no_way_back():
    """Removing rooms whose imports are all removed must empty the map: no circle is left."""
    left = dict(ROOMS)
    while free := [room for room, below in left.items() if not below & set(left)]:
        for room in free:
            del left[room]
    assert left == {}


@pytest.mark.parametrize("path", [path for path in TREES if path.is_relative_to(PACKAGE) and room_of(path) in NO_TORCH], ids=name)
def test_core_report_and_front_run_without_torch(path):
    assert [each for each, _ in imports(TREES[path]) if each.split(".")[0] in ("torch", "transformers", "trl")] == []


@pytest.mark.parametrize("path", HOUSE, ids=name)
def test_files_and_functions_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= FILE_LINES
    long = {f.name: n for f in functions(TREES[path]) if (n := f.end_lineno - f.lineno + 1) > FUNCTION_LINES}
    assert long == {}


@pytest.mark.parametrize("path", HOUSE, ids=name)
def test_every_public_function_is_typed_and_documented(path):
    public = public_functions(TREES[path])
    assert {function.name: bare for function in public if (bare := untyped(function))} == {}
    # a property reads as a field, and its class says what its fields are
    assert [function.name for function in public if not is_property(function) and not ast.get_docstring(function)] == []


@pytest.mark.parametrize("path", PYTHON, ids=name)
def test_no_bare_except_no_pickle_no_foreign_code(path):
    tree = TREES[path]
    assert [node.lineno for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.type is None] == []
    assert [each for each, _ in imports(tree) if each.split(".")[0] in ("pickle", "cloudpickle", "dill", "shelve")] == []
    unsafe = {"trust_remote_code": True, "allow_pickle": True, "weights_only": False}
    given = [(node.arg, node.value.value) for node in ast.walk(tree) if isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant)]
    assert [pair for pair in given if pair[0] in unsafe and unsafe[pair[0]] is pair[1]] == []


def test_no_module_called_utils():
    assert [name(path) for path in PYTHON if re.fullmatch(r"_?(utils?|helpers?|misc|common)\.py", path.name)] == []


def test_chapter_sources_hold_no_outputs():
    dirty = []
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        dirty += [name(path) for cell in cells if cell.get("outputs") or cell.get("execution_count") is not None][:1]
    assert dirty == []


MACHINE = re.compile(r"(?<![a-zA-Z0-9_.~$}\])/-])/(?:[w]ork|[f]arm|[r]oot|[t]mp|[h]ome/\w+|[U]sers/\w+)(?:/|\b)")
REGISTRY = re.compile(r"[p]ypi\.org|[p]ythonhosted\.org|[n]pmjs\.(?:org|com)|[d]ebian\.org|[a]naconda\.(?:org|com)|[d]ownload\.pytorch\.org")


def test_no_machine_path_and_no_registry_host_is_tracked():
    found = []
    for path in tracked():
        if path.name != "LICENSE":
            for number, line in enumerate(text_of(path).splitlines(), 1):
                found += [f"{name(path)}:{number}: {line.strip()[:80]}"] if MACHINE.search(line) or REGISTRY.search(line) else []
    assert found == []


def test_tracked_files_are_small():
    assert {name(path): path.stat().st_size for path in tracked() if path.stat().st_size >= TRACKED_BYTES} == {}


class TestTheRulesThemselves:
    """Each rule against a line that breaks it, so that none of them passes by looking away."""

    def test_imports_inside_functions_and_relative_ones_count(self):
        tree = ast.parse("def f():\n    from repro.papers import ugda\n")
        assert wrong_imports("core", tree) == ["repro.papers.ugda"]
        assert wrong_imports("core", ast.parse("from ..data import hh"), ("repro", "core")) == ["repro.data.hh"]
        assert wrong_imports("core", ast.parse("from repro import models"), ("repro", "core")) == ["repro.models"]
        assert wrong_imports("train", ast.parse("from repro.core import paths\nfrom . import dpo"), ("repro", "train")) == []
        assert wrong_imports("front", ast.parse("from repro.report import ledger")) == ["repro.report.ledger"]
        assert wrong_imports("front", ast.parse("def f():\n    from repro.report import ledger")) == []

    def test_bare_arguments_results_and_docstrings_are_seen(self):
        tree = ast.parse("def f(a, *b: int, c=1): pass\nclass C:\n    def g(self) -> int: 'd'\n    def _h(self, x): pass\n")
        found, method = public_functions(tree)
        assert untyped(found) == ["a", "c", "return"] and untyped(method) == [] and not ast.get_docstring(found)

    @pytest.mark.parametrize("bad", ["/wor" + "k/main", "see /tm" + "p", "'/ho" + "me/someone/x'", "/roo" + "t/.cache"])
    def test_paths_of_a_machine_are_seen(self, bad):
        assert MACHINE.search(bad)

    @pytest.mark.parametrize("good", ["its/work/", "a/tmp/b", "https://site.org/home/page", "$HOME/tmp", "~/work", "frame/work"])
    def test_other_slashes_are_not(self, good):
        assert not MACHINE.search(good)
