"""Where the studies' real data comes from: the data folder, known by its bytes, or else the hub, by id and revision."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from repro.core import artifacts
from repro.core.artifacts import Artifact, Job
from repro.core.errors import DataError, MissingInput
from repro.core.paths import HOW_TO_GET_DATA, data_folder
from repro.data import ADAPTERS, Loaded, Pair

ROWS, SET_ASIDE = "pairs.jsonl", "set_aside.json"


def folder_of(name: str) -> Artifact | None:
    """A public set in the data folder, digested; None where the set is not there."""
    home = data_folder()
    return artifacts.external(home / name) if home is not None and (home / name).is_dir() else None


def required(name: str) -> Artifact:
    """A public set in the data folder. Raises MissingInput where it is not there."""
    found = folder_of(name)
    if found is None:
        raise MissingInput("is not on this machine", where=name, fix=HOW_TO_GET_DATA)
    return found


def pairs(name: str) -> Artifact:
    """All usable pairs of a public set in one schema, and the tally of rows set aside.

    From the data folder, else from the hub (whose bytes are not digested: an id and a revision stand for them).
    Raises MissingInput if neither has it.
    """
    local = folder_of(name)
    settings = {"name": name} if local else {"name": name, "from": "hub"}
    return artifacts.run(read_pairs, settings=settings, inputs={"data": local} if local else {})


def read_pairs(job: Job) -> None:
    """Step: a public set through its adapter into pairs.jsonl and set_aside.json."""
    data = job.inputs.get("data")
    loaded: Loaded = ADAPTERS[job.settings.name](data.path.parent if data else None)
    if not loaded.rows:
        raise DataError("no usable pair", where=job.settings.name, fix="`repro data fetch` brings the set again")
    save_pairs(loaded.rows, job.out / ROWS)
    (job.out / SET_ASIDE).write_text(json.dumps(counted(loaded), indent=1))


def counted(loaded: Loaded) -> dict:
    """How many rows a set gave and how many were set aside, by reason."""
    reasons = {str(reason): count for reason, count in loaded.counts().most_common()}
    return {"rows": len(loaded.rows), "set_aside": reasons}


def save_pairs(rows: Iterable[Pair], file: Path) -> None:
    """Write pairs as JSON lines."""
    with file.open("w") as stream:
        for row in rows:
            stream.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")


def load_pairs(file: Path) -> list[Pair]:
    """Read pairs that `save_pairs` wrote."""
    with file.open() as stream:
        rows = [json.loads(line) for line in stream]
    return [
        Pair(tuple(map(tuple, row["prompt"])), row["chosen"], row["rejected"], row["source"], row["extras"])
        for row in rows
    ]


def tally(artifact: Artifact) -> dict:
    """How many rows a set gave and how many were set aside, by reason."""
    return json.loads((artifact / SET_ASIDE).read_text())


def sample(rows: Sequence, count: int, seed: int) -> list:
    """At most `count` of the rows, drawn without replacement, in their order."""
    import numpy as np

    if count >= len(rows):
        return list(rows)
    return [rows[i] for i in sorted(np.random.default_rng(seed).choice(len(rows), count, replace=False))]
