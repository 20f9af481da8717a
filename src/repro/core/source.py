"""Which of the project's modules a module imports, and a digest of what each one says.

The digest ignores comments and docstrings, so that rewording one does not retrain a model.
"""

import ast
import hashlib
from functools import cache
from pathlib import Path

PACKAGE = "repro"
HOME = Path(__file__).resolve().parents[1]


def _file(module: str) -> Path | None:
    """The source file of one of the project's modules, by its path, so that nothing is imported."""
    first, *parts = module.split(".")
    if first != PACKAGE:
        return None
    place = HOME.joinpath(*parts)
    return next((file for file in (place / "__init__.py", place.with_suffix(".py")) if file.is_file()), None)


def _strip(tree: ast.Module) -> ast.Module:
    """The tree without docstrings."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(
            node, clean=False
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def _names(tree: ast.Module, module: str, is_package: bool) -> set[str]:
    """Dotted names the tree imports, wherever in the file the import stands; a name may be a module's attribute."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".") if is_package else module.split(".")[:-1]
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            base = ".".join(filter(None, (base, node.module)))
            names.update({base} | {f"{base}.{alias.name}" for alias in node.names})
    return {name for name in names if name == PACKAGE or name.startswith(PACKAGE + ".")}


@cache
def _parse(file: Path, module: str, _mtime: int) -> tuple[str, frozenset[str]]:
    tree = ast.parse(file.read_text())
    names = _names(tree, module, file.name == "__init__.py")
    digest = hashlib.sha256(ast.unparse(_strip(tree)).encode()).hexdigest()
    return digest, frozenset(names)


def imports_of(text: str) -> set[str]:
    """The project's modules that a piece of Python (a notebook's code) imports."""
    return {name for name in _names(ast.parse(text), "__main__", False) if _file(name)}


def closure(*modules: str) -> dict[str, str]:
    """Digest of every project module that the given ones import, directly or not, themselves included."""
    found: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in found or (file := _file(module)) is None:
            continue
        found[module], names = _parse(file, module, file.stat().st_mtime_ns)
        parents = {module.rsplit(".", k)[0] for k in range(1, module.count(".") + 1)}
        waiting += [name for name in names | parents if _file(name)]
    return dict(sorted(found.items()))
