"""Files of a public data set on the Hugging Face hub, or in a local copy of its repository.

Whole files are taken, and read by the same readers as the data folder's, so that row numbers and malformed rows
mean the same in both. `datasets` is not needed: no repository here is anything but json files.
"""

from __future__ import annotations

from pathlib import Path

from repro.core import hub as the_hub
from repro.core.errors import MissingInput
from repro.core.paths import HOW_TO_GET_DATA, data_folder
from repro.data.reading import find_file


def hub_file(hub: str, name: str, revision: str | None = None) -> Path:
    """The local path of file `name` of data set repository `hub`: an id, or a folder that holds a copy of it.

    A file that the hub's cache has is found without a network. Raises MissingInput, naming both ways to get it.
    """
    if Path(hub).is_dir():
        if (Path(hub) / name).is_file():
            return Path(hub) / name
        raise MissingInput(f"has no file {name}", where=hub, fix=_both_ways(hub))
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as problem:
        raise MissingInput("huggingface_hub is not installed", where=hub, fix=_both_ways(hub)) from problem
    offline = not the_hub.reachable()
    try:
        found = hf_hub_download(hub, name, repo_type="dataset", revision=revision, local_files_only=offline)
    except LocalEntryNotFoundError as problem:
        what = f"the hub cannot be reached and its cache has no {name}"
        raise MissingInput(what, where=hub, fix=_both_ways(hub)) from problem
    except (EntryNotFoundError, HfHubHTTPError) as problem:
        what = f"the hub does not give {name} at revision {revision or 'main'}: {str(problem).splitlines()[0]}"
        raise MissingInput(what, where=hub, fix=_both_ways(hub)) from problem
    except (OSError, ValueError) as problem:
        raise MissingInput(f"{name} cannot be had ({problem})", where=hub, fix=_both_ways(hub)) from problem
    return Path(found)


def _both_ways(hub: str) -> str:
    return f"two ways: {HOW_TO_GET_DATA}; or connect to the hub, which has it as the data set {hub!r}"


def folder_with(name: str, folder: Path | str | None) -> Path | None:
    """The data folder to read set `name` from; None means: take it from the hub.

    A folder that is given is final: MissingInput if it lacks the set. Without one, the project's data folder is
    used where it has the set.
    """
    if folder is not None:
        if not (Path(folder) / name).is_dir():
            raise MissingInput(f"has no {name}", where=folder, fix=HOW_TO_GET_DATA)
        return Path(folder) / name
    default = data_folder()
    return default / name if default is not None and (default / name).is_dir() else None


def file_of(home: Path | None, name: str, hub_allowed: bool, hub: str, revision: str | None = None) -> Path:
    """`home/name` (with or without .gz), else the same file of the hub where that is allowed, else MissingInput."""
    found = find_file(home, name) if home is not None else None
    if found is not None:
        return found
    if home is not None and not hub_allowed:
        raise MissingInput("the file is not there", where=home / name, fix=HOW_TO_GET_DATA)
    return hub_file(hub, name, revision)
