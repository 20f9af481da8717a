"""Pairs out to Argilla, its export back as labels, in the form that its SDK 2 writes and reads as JSON.

Record: {"id": "5f…", "fields": {"prompt": "How many …", "first": "57.", "second": "58."}, "responses": {"preference":
[{"value": "first", "user_id": "a1…"}]}, "suggestions": {}, "metadata": {}, "vectors": {}}. Its server's own form,
[{"user_id": …, "status": "submitted", "values": {"preference": {"value": "first"}}}] as responses, is read too.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from repro.judges.exchange import TEXTS, Imported, take, texts_of, told
from repro.judges.human import Label
from repro.judges.labelling import Pair

SETTINGS = {  # of rg.Settings: three TextFields and a LabelQuestion
    "fields": list(TEXTS),
    "questions": {"preference": {"first": "the first is better", "second": "the second is better", "tie": "equal"}},
}
KNOWN = {"id", "fields", "responses", "suggestions", "metadata", "vectors", "_server_id", "status", "external_id"}
KNOWN |= {"inserted_at", "updated_at", "dataset_id"}


def records(pairs: Sequence[Pair], said: Sequence[Label] = (), seed: int = 0) -> list[dict[str, Any]]:
    """Records for SETTINGS, with the labels of these pairs as responses; skips, which Argilla has no word for, stay out."""
    found = []
    for id, texts, ours in told(pairs, said, seed):
        made = [{"value": label.label, "user_id": label.annotator} for label in ours if label.label != "skip"]
        rest: dict[str, Any] = {"suggestions": {}, "metadata": {}, "vectors": {}}
        found.append({"id": id, "fields": texts, "responses": {"preference": made} if made else {}} | rest)
    return found


def labels(
    exported: Sequence[Any],
    question: str | Sequence[str] = "preference",
    names: Sequence[str] = TEXTS,
    values: Mapping[Any, str] | None = None,
    source: str = "Argilla",
) -> Imported:
    """The labels of an export: of a label or ranking question, or of two rating questions, one an answer.

    question: its name, or the names of the two ratings; names: what the fields call prompt and answers; values: what
    each value of a label or of a single rating means, such as {1: "first", 2: "second"}. A discarded response is a
    skip; drafts and what is not known are set aside and counted.
    """
    found = Imported(source)
    asked = [question] if isinstance(question, str) else list(question)
    meaning = values or {each: each for each in ("first", "second", "tie", "skip")}
    read = partial(_said, asked=asked, names=names, values=meaning)
    for number, record in enumerate(exported, 1):
        if (texts := texts_of(found, record, "fields", names, f"record {number}", KNOWN)) is None:
            continue
        responses = list(_responses(record.get("responses")))
        if not responses:
            found.set_aside.append((f"record {number}", "no responses"))
        for response in responses:
            take(found, texts, f"record {number}, annotator {response.user}", read, response)
    return found.without_repeats()


class Response(NamedTuple):
    """What one user answered, by question."""

    user: Any
    status: Any
    answers: dict[str, Any]


def _responses(given: Any) -> Iterator[Response]:
    """By user, from the SDK's form (a list by question) and from the server's (a list of users)."""
    if isinstance(given, Mapping):
        users: dict[Any, Response] = {}
        for name, many in given.items():
            for each in many if isinstance(many, list) else []:
                each = each if isinstance(each, Mapping) else {}
                user = str(each.get("user_id") or "")
                users.setdefault(user, Response(user, each.get("status"), {})).answers[name] = each.get("value")
        yield from users.values()
        return
    for each in given if isinstance(given, list) else []:
        each = each if isinstance(each, Mapping) else {}
        said = each.get("values") if isinstance(each.get("values"), Mapping) else {}
        answers = {name: value.get("value") if isinstance(value, Mapping) else value for name, value in said.items()}
        yield Response(str(each.get("user_id") or ""), each.get("status"), answers)


def _said(response: Response, asked: Sequence[str], names: Sequence[str], values: Mapping[Any, str]) -> tuple[str, str]:
    """Label and annotator. Raises ValueError saying why there is none."""
    if response.user in ("", "None"):
        raise ValueError("no annotator")
    if response.status == "discarded":
        return "skip", response.user
    if response.status == "draft":
        raise ValueError("a draft, never submitted")
    if missing := [name for name in asked if response.answers.get(name) is None]:
        raise ValueError(f"no answer to {missing[0]!r}")
    said = [response.answers[name] for name in asked]
    if len(said) == 2:
        return _higher(*said), response.user
    if isinstance(said[0], list):
        return _ranked(said[0], names), response.user
    if isinstance(said[0], Mapping) or said[0] not in values:
        raise ValueError(f"unknown value {said[0]!r}")
    return values[said[0]], response.user


def _higher(first: Any, second: Any) -> str:
    if not all(isinstance(each, (int, float)) for each in (first, second)):
        raise ValueError(f"ratings that are not numbers: {first!r}, {second!r}")
    return "tie" if first == second else "first" if first > second else "second"


def _ranked(order: Sequence[Any], names: Sequence[str]) -> str:
    """Answers best first; equal ranks, where ranks are given, are a tie."""
    places = {}
    for place, each in enumerate(order):
        entry = each if isinstance(each, Mapping) else {"value": each}
        rank = entry.get("rank")
        places[str(entry.get("value"))] = place if rank is None else rank
    if set(places) != set(names[1:]):
        raise ValueError(f"a ranking of {', '.join(sorted(places))}")
    return _higher(places[names[2]], places[names[1]])  # the lower rank is the better
