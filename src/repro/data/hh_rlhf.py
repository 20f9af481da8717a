r"""HH-RLHF: two endings of one conversation, the one a crowd worker preferred and the other.

Row: {"chosen": "\n\nHuman: Do you know why…?\n\nAssistant: To be honest, I don't know…",
      "rejected": "\n\nHuman: Do you know why…?\n\nAssistant: I know that the American…"} → chosen over rejected.
The shared turns are the prompt, the last assistant turn is the answer. Dropped: equal answers (36 rows), and rows
whose transcripts do not split into alternating turns, mostly because an answer itself holds "\n\nAssistant:".
Bai et al. 2022, arXiv 2204.05862; hub id Anthropic/hh-rlhf; it holds offensive text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repro.core.errors import SettingsError
from repro.data.hub import file_of, folder_with
from repro.data.reading import read_rows
from repro.data.schema import Loaded, Malformed, Pair, Reason, Turns, Unusable, check_answers, text_field

NAME = "hh-rlhf"
HUB_ID = "Anthropic/hh-rlhf"
SUBSETS = ("helpful-base", "harmless-base", "helpful-online", "helpful-rejection-sampled")
# The four test files share no prompt, so the first two can test what the last two trained.
BASE = SUBSETS[:2]
BEYOND_BASE = SUBSETS[2:]

_MARK = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def load(
    folder: Path | str | None = None,
    *,
    subsets: Sequence[str] = SUBSETS,
    split: str = "test",
    hub: str = HUB_ID,
    revision: str | None = None,
) -> Loaded:
    """Pairs of the named subsets, from the data folder or else from the hub (Bai et al. 2022).

    folder: a data folder, None for the project's own; hub, revision: data set id (or a local copy of its
    repository) and commit. `Pair.extras` is {"subset"}. Raises SettingsError for an unknown subset,
    MissingInput if neither place has the files, DataError if a file is useless.
    """
    if unknown := set(subsets) - set(SUBSETS):
        raise SettingsError(f"unknown subset {min(unknown)!r}", where=NAME, fix=f"choose from {', '.join(SUBSETS)}")
    home, malformed, pairs = folder_with(NAME, folder), Malformed(), []
    for subset in subsets:
        name = f"{subset}/{split}.jsonl.gz"
        path = file_of(home, name, folder is None, hub, revision)
        where = f"{NAME}/{name}"
        rows = read_rows(path, malformed, where=where)
        pairs += malformed.collect(rows, where, lambda row, subset=subset: pair_from(row, subset))
    return Loaded(tuple(pairs), tuple(malformed.records), f"{NAME} ({split}: {', '.join(subsets)})")


def pair_from(row: Any, subset: str) -> Pair:
    """One source row as a Pair; raises Unusable with the reason."""
    chosen_text, rejected_text = text_field(row, "chosen"), text_field(row, "rejected")
    if chosen_text.strip() == rejected_text.strip():
        raise Unusable(Reason.EQUAL)
    chosen, rejected = turns_from(chosen_text), turns_from(rejected_text)
    for turns in (chosen, rejected):
        check_roles(turns)
    if chosen[:-1] != rejected[:-1]:
        raise Unusable(Reason.DIVERGES)
    check_answers(chosen[-1][1], rejected[-1][1])
    prompt = chosen[:-1]
    if any(not text for _, text in prompt):
        raise Unusable(Reason.EMPTY_TURN)
    return Pair(prompt, chosen[-1][1], rejected[-1][1], f"{NAME}/{subset}", {"subset": subset})


def turns_from(transcript: str) -> Turns:
    r"""A transcript "\n\nHuman: …\n\nAssistant: …" as (role, text) turns, outer white space removed.

    Raises Unusable if it does not begin with a turn.
    """
    before, *parts = _MARK.split(transcript)
    if before.strip() or not parts:
        raise Unusable(Reason.NO_TURNS)
    return tuple((_ROLES[role], text.strip()) for role, text in zip(parts[::2], parts[1::2], strict=True))


def check_roles(turns: Turns) -> None:
    """Raises Unusable unless user and assistant alternate from the user's first turn to the assistant's last."""
    if any(role != ("user", "assistant")[place % 2] for place, (role, _) in enumerate(turns)):
        raise Unusable(Reason.ROLES)
    if len(turns) % 2:
        raise Unusable(Reason.NOT_ANSWERED)
