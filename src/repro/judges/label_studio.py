"""Pairs out to Label Studio, its export back as labels, as its guide on the task format and its Pairwise tag have them.

Task: {"data": {"prompt": "How many …", "first": "57.", "second": "58."}, "annotations": [{"completed_by": 1,
"was_cancelled": false, "result": [{"type": "pairwise", "from_name": "preference", "to_name": "preference", "value":
{"selected": "left"}}]}]}. The tag knows no tie: CONFIG has a box for it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from repro.judges.exchange import TEXTS, Imported, take, texts_of, told
from repro.judges.human import Label
from repro.judges.labelling import Pair

CONFIG = """<View>
  <Text name="prompt" value="$prompt"/>
  <Pairwise name="preference" toName="first,second"/>
  <View style="display: flex; gap: 1em">
    <Text name="first" value="$first"/>
    <Text name="second" value="$second"/>
  </View>
  <Choices name="equal" toName="prompt" choice="single"><Choice value="tie"/></Choices>
</View>"""
SIDES = {"left": "first", "right": "second"}
KNOWN = {"data", "annotations", "id", "project", "created_at", "updated_at", "predictions", "drafts", "meta"}
KNOWN |= {"inner_id", "file_upload", "total_annotations", "cancelled_annotations", "total_predictions"}
KNOWN |= {"comment_count", "unresolved_comment_count", "last_comment_updated_at", "updated_by", "comment_authors"}


def tasks(pairs: Sequence[Pair], said: Sequence[Label] = (), seed: int = 0) -> list[dict[str, Any]]:
    """Tasks for CONFIG, with the labels of these pairs as annotations.

    An annotator becomes the e-mail address by which Label Studio knows people: where it knows none of that name it
    refuses the import, and labels are best kept here.
    """
    found = []
    for _, texts, ours in told(pairs, said, seed):
        made = [_annotation(label) for label in ours]
        found.append({"data": texts} | ({"annotations": made} if made else {}))
    return found


def _annotation(label: Label) -> dict[str, Any]:
    choice = {"from_name": "preference", "to_name": "preference", "type": "pairwise"}
    if label.label == "tie":
        choice = {"from_name": "equal", "to_name": "prompt", "type": "choices", "value": {"choices": ["tie"]}}
    elif label.label != "skip":
        choice["value"] = {"selected": {"first": "left", "second": "right"}[label.label]}
    skipped = label.label == "skip"
    return {
        "completed_by": {"email": label.annotator},
        "was_cancelled": skipped,
        "result": [] if skipped else [choice],
    }


def labels(exported: Sequence[Any], names: Sequence[str] = TEXTS, source: str = "Label Studio") -> Imported:
    """The labels of an export in Label Studio's full JSON form.

    names: what the data calls prompt, left and right answer; left is what the tag's toName names first. A skipped task is a skip. Set aside and counted: what is no
    task, a task without these texts, an annotation that says nothing or nothing known.
    """
    found = Imported(source)
    for number, task in enumerate(exported, 1):
        if (texts := texts_of(found, task, "data", names, f"task {number}", KNOWN)) is None:
            continue
        annotations = task.get("annotations")
        if not isinstance(annotations, list):
            found.set_aside.append((f"task {number}", "no annotations (not the full JSON export?)"))
            continue
        for place, annotation in enumerate(annotations, 1):
            take(found, texts, f"task {number}, annotation {place}", _said, annotation)
    return found.without_repeats()


def _said(annotation: Any) -> tuple[str, str]:
    """Label and annotator. Raises ValueError saying why there is none."""
    annotation = annotation if isinstance(annotation, Mapping) else {}
    who = annotation.get("completed_by")
    who = (who.get("email") or who.get("id")) if isinstance(who, Mapping) else who
    if who in (None, ""):
        raise ValueError("no annotator")
    if annotation.get("was_cancelled") is True:
        return "skip", str(who)
    results = annotation.get("result")
    results = [each for each in results if isinstance(each, Mapping)] if isinstance(results, list) else []
    said = {_of_result(each) for each in results if each.get("type") in ("pairwise", "choices")}
    if len(said) > 1:
        raise ValueError("several answers that contradict each other")
    if not said:
        raise ValueError("no pairwise result" if results else "submitted with nothing selected")
    return said.pop(), str(who)


def _of_result(result: Mapping[str, Any]) -> str:
    value = result.get("value")
    value = value if isinstance(value, Mapping) else {}
    if result["type"] == "choices":
        if value.get("choices") != ["tie"]:
            raise ValueError(f"unknown choice {value.get('choices')!r}")
        return "tie"
    selected = str(value.get("selected"))
    if selected not in SIDES:
        raise ValueError(f"unknown side {selected!r}")
    return SIDES[selected]
