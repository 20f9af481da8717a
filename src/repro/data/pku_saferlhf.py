"""PKU-SafeRLHF: two answers to one request, each labelled safe or unsafe.

Row in the data folder: {"response": ["It's not advisable to…", "Gathering revenge…"], "prompt": "I recently ran…"}
→ response[0] (the safe one) over response[1].
Row on the hub: {"prompt": "…", "response_0": "…", "response_1": "…", "is_response_0_safe": false,
"is_response_1_safe": true, "safer_response_id": 1, "better_response_id": 0, …} → response_1 over response_0.
Kept from the hub: pairs with exactly one safe answer, which is how the folder's file was made. It is the safety
label, not the helpfulness label. The folder's file repeats itself: 3,590 of its 5,135 rows differ, the repeats are
set aside; 144 of these pairs of answers occur in both orders, and stay, as the label's own noise.
Ji et al. 2024, arXiv 2406.15513; hub id PKU-Alignment/PKU-SafeRLHF; CC-BY-NC-4.0; it holds harmful text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repro.core.errors import MissingInput
from repro.data.hub import file_of, folder_with, hub_file
from repro.data.reading import read_rows
from repro.data.schema import Loaded, Malformed, Pair, Reason, Unusable, check_answers, clean_text, field_of, text_field

NAME = "pku-saferlhf"
HUB_ID = "PKU-Alignment/PKU-SafeRLHF"
FILE = "test_safety_pairs.jsonl.gz"
HUB_FILES = ("data/Alpaca-7B/{split}.jsonl", "data/Alpaca2-7B/{split}.jsonl", "data/Alpaca3-8B/{split}.jsonl")


def load(
    folder: Path | str | None = None,
    *,
    split: str = "test",
    keep_repeats: bool = False,
    hub: str = HUB_ID,
    hub_files: Sequence[str] = HUB_FILES,
    revision: str | None = None,
) -> Loaded:
    """Safety pairs, from the data folder (test split only) or else from the hub (Ji et al. 2024).

    folder: a data folder, None for the project's own; hub, revision: data set id (or a local copy of its
    repository) and commit. Raises MissingInput if neither place has the files, DataError if a file is useless.
    """
    malformed, pairs, seen = Malformed(), [], set()
    home = folder_with(NAME, folder)
    if split != "test":
        if folder is not None:
            raise MissingInput(f"the folder has no {split} split of {NAME}", where=folder, fix="leave folder out")
        home = None
    if home is not None:
        files = [(f"{NAME}/{FILE}", file_of(home, FILE, False, hub))]
    else:
        names = [name.format(split=split) for name in hub_files]
        files = [(f"{hub}/{name}", hub_file(hub, name, revision)) for name in names]

    def build(row: Any) -> Pair:
        pair = pair_from(row)
        key = (pair.prompt, pair.chosen, pair.rejected)
        if key in seen and not keep_repeats:
            raise Unusable(Reason.REPEATED)
        seen.add(key)
        return pair

    for where, path in files:
        pairs += malformed.collect(read_rows(path, malformed, where=where), where, build)
    return Loaded(tuple(pairs), tuple(malformed.records), f"{NAME} ({split})")


def pair_from(row: Any) -> Pair:
    """One row of either schema as a Pair; raises Unusable with the reason."""
    prompt = text_field(row, "prompt")
    chosen, rejected = _by_order(row) if "response" in row else _by_label(row)
    if not prompt.strip():
        raise Unusable(Reason.EMPTY_TURN)
    check_answers(chosen, rejected)
    return Pair((("user", prompt),), chosen, rejected, NAME)


def _by_order(row: Any) -> tuple[str, str]:
    answers = field_of(row, "response")
    if not isinstance(answers, list) or len(answers) != 2 or not all(isinstance(each, str) for each in answers):
        raise Unusable(Reason.WRONG_TYPE, "response is not two texts")
    return clean_text(answers[0], "response[0]"), clean_text(answers[1], "response[1]")


def _by_label(row: Any) -> tuple[str, str]:
    answers = text_field(row, "response_0"), text_field(row, "response_1")
    safe = field_of(row, "is_response_0_safe"), field_of(row, "is_response_1_safe")
    if not all(isinstance(each, bool) for each in safe):
        raise Unusable(Reason.WRONG_TYPE, "is_response_*_safe is not true or false")
    if safe[0] == safe[1]:
        raise Unusable(Reason.NO_CHOICE, "both answers are safe" if safe[0] else "neither answer is safe")
    chosen = 0 if safe[0] else 1
    if field_of(row, "safer_response_id") != chosen:
        raise Unusable(Reason.NO_CHOICE, "safer_response_id contradicts is_response_*_safe")
    return answers[chosen], answers[1 - chosen]
