"""Judges that ask nobody: gold reward, reward model, people's labels from a file."""

import json

import numpy as np
import pytest

from repro.core.errors import DataError, MissingInput
from repro.judges.human import HumanLabels
from repro.judges.judge import Gold, RewardModel, dialogue

ASK = (("user", "How many?"),)
ASKS = [ASK] * 3


def test_gold_is_the_sign_of_the_difference_and_says_where_it_has_none(capsys):
    gold = Gold(lambda turns, answer: float(answer))
    found = gold.compare([ASK] * 4, ["2", "1", "3", "nan"], ["1", "2", "3", "0"])
    np.testing.assert_array_equal(found, [1, 0, 0.5, np.nan])
    np.testing.assert_array_equal(gold.score(ASKS, ["2", "-1", "0.5"]), [2, -1, 0.5])
    assert "gold: no verdict on 1 of 4" in capsys.readouterr().out


def test_a_reward_model_judges_by_bradley_terry():
    """r = number of characters: differences 1, 0, -2; σ(1) = 1 / (1 + 1/e), σ(-2) = 1 / (1 + e²)."""
    judge = RewardModel(lambda prompts, answers: [len(answer) for answer in answers])
    found = judge.compare(ASKS, ["ab", "a", "a"], ["a", "b", "abc"])
    np.testing.assert_allclose(found, [0.7310585786300049, 0.5, 0.11920292202211755], rtol=1e-12)
    extreme = RewardModel(lambda prompts, answers: [float(answer) for answer in answers])
    np.testing.assert_array_equal(extreme.compare([ASK] * 2, ["1e5", "-1e5"], ["0", "0"]), [1, 0])


def test_a_reward_model_with_the_wrong_number_of_rewards_is_refused():
    with pytest.raises(DataError, match=r"shape \(2,\) for 3 answers"):
        RewardModel(lambda prompts, answers: [0.0, 1.0]).score(ASKS, ["a", "b", "c"])


@pytest.mark.parametrize("bad", [None, 3, "\ud800", b"bytes"])
def test_what_is_no_text_is_named_by_its_index(bad):
    with pytest.raises(DataError, match="pair 1: the prompt or an answer is not text"):
        Gold(lambda turns, answer: 0.0).compare([ASK] * 2, ["a", "b"], ["c", bad])
    with pytest.raises(DataError, match="pair 0"):
        Gold(lambda turns, answer: 0.0).score([(("user", bad),)], ["a"])


def test_lengths_must_agree_and_a_prompt_has_turns():
    with pytest.raises(DataError, match="2 prompts but 1 answers"):
        Gold(lambda turns, answer: 0.0).compare([ASK] * 2, ["a", "b"], ["c"])
    with pytest.raises(DataError, match="pair 0"):
        Gold(lambda turns, answer: 0.0).score([()], ["a"])


def test_a_dialogue_keeps_its_roles():
    assert dialogue(ASK) == "How many?"
    assert (
        dialogue((*ASK, ("assistant", "57."), ("user", "Sure?"))) == "User: How many?\n\nAssistant: 57.\n\nUser: Sure?"
    )


LABELS = [
    {"prompt": "How many?", "first": "57.", "second": "58.", "label": "first", "annotator": "one"},
    {"prompt": "How many?", "first": "58.", "second": "57.", "label": "second", "annotator": "two"},  # agrees, mirrored
    {"prompt": "How many?", "first": "57.", "second": "58.", "label": "tie", "annotator": "three"},
    {"prompt": "How many?", "first": "57.", "second": "58.", "label": "skip", "annotator": "four"},
    {"prompt": "How many?", "first": 'a, "b"\nc', "second": "x" * 200_000, "label": "second", "annotator": "one"},
    {"prompt": "How many?", "first": "d", "second": "e", "label": "skip", "annotator": "one"},
]


def write(file, rows):
    if file.suffix == ".csv":
        import csv

        with file.open("w", newline="") as end:
            table = csv.DictWriter(end, rows[0])
            table.writeheader()
            table.writerows(rows)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.mark.parametrize("name", ["labels.jsonl", "labels.csv"])
def test_people_are_averaged_over_annotators_and_orders(tmp_path, name, capsys):
    """Two for 57., one tie: (1 + 1 + 0.5) / 3; seen from the other side 1 minus that; skipped or unknown is nan."""
    judge = HumanLabels(write(tmp_path / name, LABELS))
    first, second = ["57.", "58.", "x" * 200_000, "d", "f"], ["58.", "57.", 'a, "b"\nc', "e", "g"]
    found = judge.compare([ASK] * 5, first, second)
    np.testing.assert_allclose(found, [2.5 / 3, 0.5 / 3, 1, np.nan, np.nan])
    assert np.isnan(judge.score([ASK], ["57."])).all()
    assert "human: no verdict on 2 of 5" in capsys.readouterr().out


def test_a_file_may_name_prompts_by_id(tmp_path):
    rows = [{key: value for key, value in row.items() if key != "prompt"} | {"prompt_id": "7"} for row in LABELS[:1]]
    file = write(tmp_path / "labels.jsonl", rows)
    judge = HumanLabels(file, prompt_id=lambda turns: "7" if turns == ASK else "8")
    other = (("user", "How many?"), ("assistant", "No."), ("user", "Yes."))
    np.testing.assert_array_equal(judge.compare([ASK, other], ["57."] * 2, ["58."] * 2), [1, np.nan])
    with pytest.raises(DataError, match="line 1: names prompts by id"):
        HumanLabels(file)


@pytest.mark.parametrize("bad", ['{"first": "a"}', '{"prompt":', "[1]", '"text"', '{"label": "left"}', "\udcff"])
def test_a_line_that_is_no_label_is_named(tmp_path, bad):
    file = tmp_path / "labels.jsonl"
    file.write_bytes((json.dumps(LABELS[0]) + "\n").encode() + bad.encode("utf-8", "surrogateescape") + b"\n")
    with pytest.raises(DataError, match=r"labels.jsonl, line [12]: "):
        HumanLabels(file)


def test_without_the_file_the_input_is_missing(tmp_path):
    with pytest.raises(MissingInput, match="no such file of labels"):
        HumanLabels(tmp_path / "none.jsonl")
