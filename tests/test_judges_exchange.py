"""Exports of Label Studio and Argilla: round trips, what each tool writes, and all that can be wrong with it."""

import json
from dataclasses import dataclass

import pytest

from repro.core.errors import DataError, MissingInput
from repro.judges import argilla, label_studio
from repro.judges.exchange import read_export, write_export
from repro.judges.human import Label
from repro.judges.labelling import simulated


@dataclass(frozen=True)
class Pair:
    prompt: tuple
    chosen: str
    rejected: str


PAIRS = [Pair((("user", f"Question {n}?"),), f"right “{n}”", f"wrong {n}\n<b>") for n in range(8)]
SAID = [1, 0, 0.5, float("nan"), 1, 1, 0, 0]
LABELS = simulated(PAIRS, {"one@site.org": lambda pairs, *_: SAID, "two@site.org": lambda pairs, *_: SAID[::-1]})
TEXTS = {"prompt": "Q", "first": "a", "second": "b"}
DIALOGUE = Pair((("user", "Hi"), ("assistant", "Yes?"), ("user", "Why?")), "a", "b")


def canonical(labels):
    """What was said of whom, whichever answer was shown first."""
    return {(each.annotator, each.pair, each.label if each.value in (0.5, None) else (each.first, each.second)[each.value == 0]) for each in labels}


class TestLabelStudio:
    def test_labels_come_back_as_they_went(self, tmp_path):
        file = write_export(tmp_path / "tasks.json", label_studio.tasks(PAIRS, LABELS, seed=3))
        found = label_studio.labels(read_export(file))
        assert canonical(found.labels) == canonical(LABELS) and len(found.labels) == 16
        assert found.set_aside == [] and not found.unknown and found.summary() == "Label Studio: 16 labels"

    def test_a_task_does_not_tell_which_answer_is_the_chosen_one(self):
        tasks = label_studio.tasks(PAIRS)
        assert all(set(task) == {"data"} and set(task["data"]) == set(TEXTS) for task in tasks)
        turned = [Pair(each.prompt, each.rejected, each.chosen) for each in PAIRS]
        assert label_studio.tasks(turned) == tasks
        assert 0 < sum(task["data"]["first"].startswith("right") for task in tasks) < 8

    def test_a_dialogue_is_one_text(self):
        assert label_studio.tasks([DIALOGUE])[0]["data"]["prompt"] == "User: Hi\n\nAssistant: Yes?\n\nUser: Why?"

    def test_the_form_of_a_real_export_is_read(self):
        """Fields as the task format's guide lists them; completed_by is a number or an object."""
        result = {"id": "x", "type": "pairwise", "origin": "manual", "from_name": "pw", "to_name": "pw", "value": {"selected": "right"}}
        annotation = {"id": 7, "completed_by": 3, "result": [result], "was_cancelled": False, "ground_truth": False, "lead_time": 4.2}
        skipped = {"completed_by": {"id": 4, "email": "x@site.org"}, "result": [], "was_cancelled": True}
        data = {"question": "Q", "t1": "a", "t2": "b"}
        task = {"id": 1, "data": data, "annotations": [annotation, skipped], "predictions": [], "project": 2, "created_at": "2024"}
        found = label_studio.labels([task], names=("question", "t1", "t2"))
        assert found.labels == [Label("Q", "a", "b", "second", "3"), Label("Q", "a", "b", "skip", "x@site.org")]
        assert label_studio.labels([task], names=("question", "t2", "t1")).labels[0] == Label("Q", "b", "a", "second", "3")

    @pytest.mark.parametrize(
        ("annotation", "why"),
        [
            ({"completed_by": 1, "result": []}, "submitted with nothing selected"),
            ({"completed_by": 1, "result": None}, "submitted with nothing selected"),
            ({"completed_by": 1, "result": [{"type": "rating", "value": {"rating": 3}}]}, "no pairwise result"),
            ({"completed_by": 1, "result": [{"type": "pairwise", "value": {"selected": "both"}}]}, "unknown side 'both'"),
            ({"completed_by": 1, "result": [{"type": "pairwise", "value": ["left"]}]}, "unknown side 'None'"),
            ({"completed_by": 1, "result": [{"type": "choices", "value": {"choices": ["bad"]}}]}, "unknown choice ['bad']"),
            ({"result": [{"type": "pairwise", "value": {"selected": "left"}}]}, "no annotator"),
            ("text", "no annotator"),
        ],
    )
    def test_an_annotation_that_cannot_be_used_is_named(self, annotation, why):
        found = label_studio.labels([{"data": TEXTS, "annotations": [annotation]}])
        assert found.labels == [] and found.set_aside == [("task 1, annotation 1", why)] and why in found.summary()

    def test_two_answers_in_one_annotation_contradict_each_other(self):
        results = [{"type": "pairwise", "value": {"selected": "left"}}, {"type": "choices", "value": {"choices": ["tie"]}}]
        found = label_studio.labels([{"data": TEXTS, "annotations": [{"completed_by": 1, "result": results}]}])
        assert "contradict" in found.set_aside[0][1]

    def test_unknown_fields_and_tasks_that_are_none_are_counted(self):
        tasks = [{"data": {**TEXTS, "writer": "x"}, "annotations": [], "surprise": 1}, {"data": {"prompt": "Q", "first": "a"}}, "text", {"prompt": "Q"}]
        found = label_studio.labels([*tasks, {"data": TEXTS}])
        assert found.unknown == {"surprise": 1, "data.writer": 1}
        assert found.counts() == {"data without the text 'second'": 1, "no 'data' with texts": 2, "no annotations (not the full JSON export?)": 1}
        assert "unknown field 'surprise' in 1, not read" in found.summary()

    def test_of_one_annotators_two_labels_the_later_holds(self):
        made = [{"completed_by": 1, "result": [{"type": "pairwise", "value": {"selected": side}}]} for side in ("left", "right")]
        found = label_studio.labels([{"data": TEXTS, "annotations": made}])
        assert [label.label for label in found.labels] == ["second"] and found.counts() == {"an annotator's later label holds": 1}


class TestArgilla:
    def test_labels_come_back_as_they_went_but_for_skips(self, tmp_path):
        file = write_export(tmp_path / "records.json", argilla.records(PAIRS, LABELS, seed=3))
        found = argilla.labels(read_export(file))
        assert canonical(found.labels) == canonical([label for label in LABELS if label.label != "skip"])
        assert found.set_aside == [] and not found.unknown

    def test_records_have_ids_that_hang_on_the_pair(self):
        ids = [record["id"] for record in argilla.records(PAIRS)]
        assert len(set(ids)) == 8 and sorted(record["id"] for record in argilla.records(PAIRS[::-1], seed=5)) == sorted(ids)

    def one(self, responses, **options):
        return argilla.labels([{"id": "1", "fields": TEXTS, "responses": responses}], **options)

    @pytest.mark.parametrize(
        ("value", "label"),
        [
            (["first", "second"], "first"),
            (["second", "first"], "second"),
            ([{"value": "second", "rank": 1}, {"value": "first", "rank": 2}], "second"),
            ([{"value": "second", "rank": 1}, {"value": "first", "rank": 1}], "tie"),
            ([{"value": "first"}, {"value": "second"}], "first"),
            ("tie", "tie"),
        ],
    )
    def test_label_and_ranking_questions(self, value, label):
        found = self.one({"preference": [{"value": value, "user_id": "u"}]})
        assert found.labels == [Label("Q", "a", "b", label, "u")]

    @pytest.mark.parametrize(("ratings", "label"), [((4, 2), "first"), ((1, 2), "second"), ((3, 3), "tie")])
    def test_two_rating_questions(self, ratings, label):
        responses = {name: [{"value": value, "user_id": "u"}] for name, value in zip(("one", "two"), ratings, strict=True)}
        assert self.one(responses, question=("one", "two")).labels[0].label == label

    def test_a_single_rating_needs_to_be_told_what_it_means(self):
        responses = {"best": [{"value": 2, "user_id": "u"}]}
        assert self.one(responses, question="best").counts() == {"unknown value 2": 1}
        assert self.one(responses, question="best", values={1: "first", 2: "second"}).labels[0].label == "second"

    def test_the_servers_own_form_and_its_states(self):
        values = {"preference": {"value": "first"}}
        responses = [{"user_id": who, "status": status, "values": values} for who, status in zip("abc", ("submitted", "draft", "discarded"), strict=True)]
        found = self.one(responses)
        assert [(each.annotator, each.label) for each in found.labels] == [("a", "first"), ("c", "skip")]
        assert found.counts() == {"a draft, never submitted": 1}

    @pytest.mark.parametrize(
        ("responses", "why"),
        [
            ({}, "no responses"),
            (None, "no responses"),
            ({"other": [{"value": "first", "user_id": "u"}]}, "no answer to 'preference'"),
            ({"preference": [{"value": "left", "user_id": "u"}]}, "unknown value 'left'"),
            ({"preference": [{"value": {"x": 1}, "user_id": "u"}]}, "unknown value {'x': 1}"),
            ({"preference": [{"value": ["first", "third"], "user_id": "u"}]}, "a ranking of first, third"),
            ({"preference": [{"value": "first", "user_id": None}]}, "no annotator"),
            ({"preference": ["text"]}, "no annotator"),
            ([{"user_id": "u", "status": "submitted", "values": None}], "no answer to 'preference'"),
        ],
    )
    def test_a_response_that_cannot_be_used_is_named(self, responses, why):
        found = self.one(responses)
        assert found.labels == [] and list(found.counts()) == [why]

    def test_unknown_fields_and_records_that_are_none_are_counted(self):
        found = argilla.labels([{"fields": {**TEXTS, "context": "x"}, "surprise": 1, "responses": {}}, {"fields": {"prompt": 3}}, 7])
        assert found.unknown == {"surprise": 1, "fields.context": 1} and sum(found.counts().values()) == 3


class TestFiles:
    def test_json_lines_are_read_too(self, tmp_path):
        (tmp_path / "export.jsonl").write_text("".join(json.dumps(row) + "\n" for row in label_studio.tasks(PAIRS)), encoding="utf-8-sig")
        assert len(read_export(tmp_path / "export.jsonl")) == 8

    def test_what_cannot_be_read_is_named(self, tmp_path):
        with pytest.raises(MissingInput, match="no such export"):
            read_export(tmp_path / "none.json")
        whole = json.dumps(label_studio.tasks(PAIRS))
        for bad in (whole[:-40], "<html>", b"\xff\xfe".decode("latin-1")):
            (tmp_path / "export.json").write_text(bad, encoding="latin-1")
            with pytest.raises(DataError, match=r"export.json: cannot be read"):
                read_export(tmp_path / "export.json")
