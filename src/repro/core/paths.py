"""Every folder the project reads or writes, in one place."""

import os
from pathlib import Path

from repro.core.errors import MissingInput

ROOT = Path(os.environ.get("REPRO_ROOT") or Path(__file__).resolve().parents[3]).resolve()
PARAMS = ROOT / "params"
NOTEBOOKS = ROOT / "notebooks"
BOOK = ROOT / "book"
CHAPTERS = BOOK / "chapters"

HOW_TO_GET_DATA = "`repro data fetch` brings it, or set REPRO_DATA to a folder that holds it"
HOW_TO_GET_MODELS = "set REPRO_MODELS to a folder that holds it, or reach the hub once"


def _existing(variable: str, *defaults: Path, fix: str) -> Path | None:
    """The folder an environment variable names, else the first default that exists."""
    if named := os.environ.get(variable):
        if not Path(named).is_dir():
            raise MissingInput(f"{variable} names no folder", where=named, fix=fix)
        return Path(named).resolve()
    return next((folder.resolve() for folder in defaults if folder.is_dir()), None)


def data_folder() -> Path | None:
    """Public data sets: REPRO_DATA, else `data/` here, else `shared/data` beside the checkout; None if absent.

    Raises MissingInput if REPRO_DATA is set and names no folder.
    """
    return _existing("REPRO_DATA", ROOT / "data", ROOT.parent / "shared" / "data", fix=HOW_TO_GET_DATA)


def models_folder() -> Path | None:
    """Pretrained models: REPRO_MODELS, else `models/` here, else `shared/models` beside the checkout; None if absent.

    Raises MissingInput if REPRO_MODELS is set and names no folder.
    """
    return _existing("REPRO_MODELS", ROOT / "models", ROOT.parent / "shared" / "models", fix=HOW_TO_GET_MODELS)


def fetch_folder() -> Path:
    """Where `repro data fetch` puts what it brings: REPRO_DATA, else `data/` here."""
    return Path(os.environ.get("REPRO_DATA") or ROOT / "data")


def runs_folder() -> Path:
    """Artifacts, records and run states: REPRO_RUNS, else `runs/` here."""
    return Path(os.environ.get("REPRO_RUNS") or ROOT / "runs")
