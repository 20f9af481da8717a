"""The inventory: what the papers contain, what they print, which chapter meets it, and the claims' rules.

`book/inventory.yaml` is the source; the notebooks are the proof that an id is met.
"""

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from repro.core import paths
from repro.core.errors import SettingsError

KINDS = ("equations", "algorithms", "tables", "figures", "hyperparameters", "claims")


@lru_cache(maxsize=1)
def _load(file: Path, _mtime: int) -> dict[str, Any]:
    return yaml.safe_load(file.read_text())


def inventory() -> dict[str, Any]:
    """The whole inventory as it stands in the file."""
    file = paths.BOOK / "inventory.yaml"
    return _load(file, file.stat().st_mtime_ns)


def entry(id: str) -> Any:
    """What the inventory holds under an id. Raises SettingsError if the id is unknown."""
    for kind in KINDS:
        if id in inventory()[kind]:
            return inventory()[kind][id]
    raise SettingsError(f"{id} is no inventory id", where="book/inventory.yaml", fix="`repro inventory` lists them")


def ids() -> dict[str, str]:
    """Every inventory id with its kind (equations, tables, ...), in the file's order."""
    return {id: kind for kind in KINDS for id in inventory()[kind]}


def title(id: str) -> str:
    """What the id is, in the inventory's words."""
    found = entry(id)
    if isinstance(found, str):
        return found
    return found.get("title") or found.get("text") or id if isinstance(found, dict) else str(found)


def published(table: str) -> dict[str, dict[str, Any]] | None:
    """The paper's figures as {row: {column: value}}; None where they are not in the paper's text.

    Raises SettingsError if the id is unknown.
    """
    found = entry(table)
    values = found.get("published") if isinstance(found, dict) else None
    if not values:
        return None
    columns = found.get("columns")
    if columns:
        return {row: dict(zip(columns, numbers, strict=True)) for row, numbers in values.items()}
    return {row: {"value": number} for row, number in values.items()}


def chapters() -> dict[str, dict[str, Any]]:
    """Chapters in the book's order: title and the ids each is to meet."""
    return inventory()["chapters"]


def claims() -> dict[str, dict[str, Any]]:
    """Claims by id: text, the paper's number, and the rule of each court."""
    return inventory()["claims"]


def _mentions(id: str, cell: dict[str, Any]) -> bool:
    """Whether a cell meets the id: labels a figure or equation with it, or calls the chapter for it."""
    source = "".join(cell["source"])
    name = cell.get("metadata", {}).get("mystnb", {}).get("figure", {}).get("name")
    quoted = re.escape(id)
    if cell["cell_type"] == "code":
        call = rf"\.(?:table|claim|parameters|drawing)\(\s*[\"']{quoted}[\"']"
        return name == id or re.search(call, source) is not None
    return (
        re.search(rf"^:(?:label|name): {quoted}\s*$|^\({quoted}\)=|\$\$ *\({quoted}\)", source, re.MULTILINE)
        is not None
    )


def coverage() -> list[dict[str, Any]]:
    """For every id: kind, the chapter planned for it, and the chapter and cell that meet it, or open."""
    planned = {id: chapter for chapter, about in chapters().items() for id in about["ids"]}
    cells = {file.stem: json.loads(file.read_text())["cells"] for file in sorted(paths.NOTEBOOKS.glob("*.ipynb"))}
    rows = []
    for id, kind in ids().items():
        met = [
            (chapter, number)
            for chapter, found in cells.items()
            for number, cell in enumerate(found)
            if _mentions(id, cell)
        ]
        met.sort(key=lambda place: place[0] != planned[id])
        chapter, cell = met[0] if met else (None, None)
        rows.append(
            {
                "id": id,
                "kind": kind,
                "title": title(id),
                "planned": planned[id],
                "chapter": chapter,
                "cell": cell,
                "status": "met" if met else "open",
            }
        )
    return rows
