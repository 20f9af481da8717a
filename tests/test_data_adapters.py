"""Adapters on rows made by hand: one test per way a row can be unusable, and the hub's own schemas."""

import csv
import gzip
import json
import math

import pytest

from repro.core import hub as the_hub
from repro.core.errors import DataError, MissingInput, SettingsError
from repro.data import ADAPTERS, alpaca_eval, hh_rlhf, hub, llmbar, pku_saferlhf
from repro.data.difficulty import as_csv, recovered_difficulty
from repro.data.schema import Reason, Unusable


def save(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    as_array = path.name.removesuffix(".gz").endswith(".json")
    text = json.dumps(rows) if as_array else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.name.endswith(".gz") else text.encode())
    return path


def talk(*texts):
    return "".join(f"\n\n{('Human', 'Assistant')[place % 2]}: {text}" for place, text in enumerate(texts))


def reason_of(build, *arguments):
    with pytest.raises(Unusable) as caught:
        build(*arguments)
    return caught.value.reason


def test_hh_splits_the_shared_turns_from_the_two_answers():
    row = {"chosen": talk("a", "b", "c\n\nd", "yes "), "rejected": talk("a", "b", "c\n\nd", "no")}
    pair = hh_rlhf.pair_from(row, "helpful-base")
    assert pair.prompt == (("user", "a"), ("assistant", "b"), ("user", "c\n\nd"))
    assert (pair.chosen, pair.rejected, pair.source) == ("yes", "no", "hh-rlhf/helpful-base")


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        (talk("a", "b"), talk("a", "b"), Reason.EQUAL),
        (talk("a", "b"), talk("a", "b "), Reason.EQUAL),
        (talk("a", ""), talk("a", "b"), Reason.EMPTY_ANSWER),
        (talk("a", "b"), talk("a", " \n"), Reason.EMPTY_ANSWER),
        (talk("", "b"), talk("", "c"), Reason.EMPTY_TURN),
        (talk("a", "b\n\nAssistant: c"), talk("a", "b"), Reason.ROLES),
        ("\n\nAssistant: b", "\n\nAssistant: c", Reason.ROLES),
        (talk("a", "b", "c"), talk("a", "b", "d"), Reason.NOT_ANSWERED),
        (talk("a", "b", "c", "d"), talk("a", "x", "c", "d"), Reason.DIVERGES),
        (talk("a", "b"), talk("a", "b", "c", "d"), Reason.DIVERGES),
        ("no marks at all", talk("a", "b"), Reason.NO_TURNS),
        ("System: be kind" + talk("a", "b"), talk("a", "c"), Reason.NO_TURNS),
        (talk("a", "\ud800"), talk("a", "b"), Reason.SURROGATE),
        (talk("a", "x" * 1_000_001), talk("a", "b"), Reason.TOO_LONG),
        (7, talk("a", "b"), Reason.WRONG_TYPE),
        (None, talk("a", "b"), Reason.WRONG_TYPE),
    ],
)
def test_hh_gives_each_unusable_row_its_reason(chosen, rejected, reason):
    assert reason_of(hh_rlhf.pair_from, {"chosen": chosen, "rejected": rejected}, "s") is reason


@pytest.mark.parametrize("build", [lambda row: hh_rlhf.pair_from(row, "s"), pku_saferlhf.pair_from])
def test_rows_that_are_no_objects_or_lack_fields(build):
    assert reason_of(build, {}) is Reason.MISSING
    for row in ([], "text", None, 3):
        assert reason_of(build, row) is Reason.NOT_A_ROW


def test_hh_counts_what_it_sets_aside_by_file_and_row(tmp_path):
    good = {"chosen": talk("a", "b"), "rejected": talk("a", "c")}
    same = {"chosen": talk("a", "b"), "rejected": talk("a", "b")}
    save(tmp_path / "hh-rlhf/helpful-base/test.jsonl.gz", [good, same, {"chosen": 1}, good])
    loaded = hh_rlhf.load(tmp_path, subsets=["helpful-base"])
    assert len(loaded.rows) == 2
    assert [(each.where, each.row, each.reason) for each in loaded.set_aside] == [
        ("hh-rlhf/helpful-base/test.jsonl.gz", 2, Reason.EQUAL),
        ("hh-rlhf/helpful-base/test.jsonl.gz", 3, Reason.WRONG_TYPE),
    ]
    assert "2 rows; 2 set aside (1 the two answers are equal" in loaded.summary()


def test_a_hostile_answer_passes_through_unchanged(tmp_path):
    for answer in ("<script>alert('x')</script>", "a\x00b", "\u202eabc", "$\\write18{x}$", "long " * 50_000 + "."):
        save(tmp_path / "llmbar" / llmbar.FILES["llmbar-natural"],
             [{"input": "i", "output_1": answer, "output_2": "b", "label": 1}])  # fmt: skip
        assert llmbar.load(tmp_path, subsets=["llmbar-natural"]).rows[0].chosen == answer


def test_a_folder_that_is_given_is_final(tmp_path):
    with pytest.raises(MissingInput, match="has no hh-rlhf"):
        hh_rlhf.load(tmp_path)
    (tmp_path / "hh-rlhf").mkdir()
    with pytest.raises(MissingInput, match="not there"):
        hh_rlhf.load(tmp_path)
    (tmp_path / "pku-saferlhf").mkdir()
    with pytest.raises(MissingInput, match="no train split"):
        pku_saferlhf.load(tmp_path, split="train")
    with pytest.raises(SettingsError, match="unknown subset 'helpful'"):
        hh_rlhf.load(tmp_path, subsets=["helpful"])
    with pytest.raises(SettingsError, match="unknown subset 'natural'"):
        llmbar.load(tmp_path, subsets=["natural"])


def test_hh_reads_the_hubs_repository(tmp_path, monkeypatch):
    """The hub has <subset>/<split>.jsonl.gz, here as a local copy of the repository; train too."""
    monkeypatch.setattr(hub, "data_folder", lambda: None)
    save(tmp_path / "helpful-base/train.jsonl.gz", [{"chosen": talk("a", "b"), "rejected": talk("a", "c")}])
    loaded = hh_rlhf.load(subsets=["helpful-base"], split="train", hub=str(tmp_path))
    assert [pair.chosen for pair in loaded.rows] == ["b"]


PKU = {
    "prompt": "p", "response_0": "bad", "response_1": "good", "is_response_0_safe": False,
    "is_response_1_safe": True, "safer_response_id": 1, "better_response_id": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"is_response_0_safe": True}, Reason.NO_CHOICE),
        ({"is_response_1_safe": False}, Reason.NO_CHOICE),
        ({"safer_response_id": 0}, Reason.NO_CHOICE),
        ({"is_response_0_safe": 0}, Reason.WRONG_TYPE),
        ({"response_1": None}, Reason.WRONG_TYPE),
        ({"response_0": "good "}, Reason.EQUAL),
        ({"response_0": ""}, Reason.EMPTY_ANSWER),
        ({"prompt": " "}, Reason.EMPTY_TURN),
        ({"response": ["a"]}, Reason.WRONG_TYPE),
        ({"response": ["a", 2]}, Reason.WRONG_TYPE),
        ({"response": ["a", "\udc00"]}, Reason.SURROGATE),
    ],
)
def test_pku_gives_each_unusable_row_its_reason(change, reason):
    assert reason_of(pku_saferlhf.pair_from, PKU | change) is reason


def test_pku_reads_both_schemas_alike(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "data_folder", lambda: None)
    save(tmp_path / "hub/data/Alpaca-7B/train.jsonl", [PKU, PKU, PKU | {"safer_response_id": 0}])
    files = ["data/Alpaca-7B/{split}.jsonl"]
    from_hub = pku_saferlhf.load(split="train", hub=str(tmp_path / "hub"), hub_files=files)
    save(tmp_path / "pku-saferlhf" / pku_saferlhf.FILE, [{"prompt": "p", "response": ["good", "bad"]}])
    assert from_hub.rows == pku_saferlhf.load(tmp_path).rows
    assert from_hub.counts() == {Reason.REPEATED: 1, Reason.NO_CHOICE: 1}
    every = pku_saferlhf.load(split="train", keep_repeats=True, hub=str(tmp_path / "hub"), hub_files=files)
    assert len(every.rows) == 2


@pytest.mark.parametrize("label", [0, 3, "1", True, None, 1.0, [1]])
def test_llmbar_refuses_other_labels(label):
    row = {"input": "i", "output_1": "a", "output_2": "b", "label": label}
    assert reason_of(llmbar.pair_from, row, "s") is Reason.NO_CHOICE


def test_llmbar_chooses_by_label():
    row = {"input": "i", "output_1": "a", "output_2": "b", "label": 2}
    pair = llmbar.pair_from(row, "llmbar-natural")
    assert (pair.chosen, pair.rejected, pair.extras["label"]) == ("b", "a", 2)


@pytest.fixture
def small_alpaca(tmp_path):
    home = tmp_path / "alpaca_eval"
    save(home / alpaca_eval.PROMPTS,
         [{"instruction": name, "output": "o", "generator": "g", "dataset": "koala"} for name in "ab"])  # fmt: skip
    texts = {"a": "1", "b": "  ", "z": "3"}
    answers = [{"instruction": instruction, "output": text} for instruction, text in texts.items()]
    save(home / alpaca_eval.OUTPUTS.format(model="m"), answers)
    save(home / alpaca_eval.OUTPUTS.format(model="NullModel"), answers[:1])
    judged = {"instruction": "a", "output_1": "x", "generator_1": "base", "output_2": "", "generator_2": "?"}
    rows = [judged | {"preference": each} for each in (1.0, 2, None, 2.5, math.nan, True, "1.5")]
    save(home / alpaca_eval.JUDGED.format(model="m"), rows)
    return tmp_path


def test_alpaca_eval_answers(small_alpaca):
    loaded = alpaca_eval.load(small_alpaca)
    assert [(each.model, each.text, each.extras["index"]) for each in loaded.rows] == [("m", "1", 0)]
    assert loaded.counts() == {Reason.EMPTY_ANSWER: 1, Reason.UNKNOWN_PROMPT: 1}
    assert alpaca_eval.models(small_alpaca) == ("m",)
    assert alpaca_eval.models(small_alpaca, leave_out=()) == ("NullModel", "m")
    assert loaded.rows[0].prompt_id == alpaca_eval.prompts(small_alpaca).rows[0].prompt_id


def test_alpaca_eval_annotations_keep_empty_answers_and_refuse_bad_numbers(small_alpaca):
    loaded = alpaca_eval.annotations(small_alpaca)
    assert [each.preference for each in loaded.rows] == [1.0, 2.0]
    assert [each.row for each in loaded.set_aside] == [3, 4, 5, 6, 7]
    assert loaded.counts() == {Reason.WRONG_TYPE: 3, Reason.OUT_OF_RANGE: 2}
    with pytest.raises(MissingInput, match="has no annotations"):
        alpaca_eval.annotations(small_alpaca, models=["NullModel"])


def test_alpaca_eval_prompts_come_from_the_hub_and_answers_do_not(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "data_folder", lambda: None)
    save(tmp_path / "alpaca_eval.json", [{"instruction": "a", "output": "o", "generator": "g", "dataset": "koala"}])
    assert alpaca_eval.prompts(hub=str(tmp_path)).rows[0].turns == (("user", "a"),)
    with pytest.raises(MissingInput, match="the hub has the instructions only"):
        alpaca_eval.load()


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_without_folder_and_hub_both_ways_are_named(name, monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "data_folder", lambda: None)
    monkeypatch.setattr("repro.core.hub.reachable", lambda: False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingInput, match="repro data fetch"):
        ADAPTERS[name]()


def test_an_offline_hub_is_noticed_in_seconds(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert not the_hub.reachable()
    monkeypatch.setattr("repro.core.hub.reachable", lambda: False)
    with pytest.raises(MissingInput, match="two ways: .*repro data fetch.*connect to the hub"):
        hub.hub_file("nobody/has-this-set", "a.jsonl")


def test_difficulty_inverts_the_regression():
    """logit(0.75) = log 3; (log 3 - 0.5) / 2 = 0.299306 for difficulty weight 2, constant 0.5."""
    weights = alpaca_eval.Weights(length=9.0, difficulty=2.0, constant=0.5)

    def annotation(index, share):
        return alpaca_eval.Annotation("id", index, "m", "b", "t", "u", 1.0, "i", share)

    found = recovered_difficulty([annotation(1, 0.5), annotation(0, 0.75)], weights)
    assert found == pytest.approx(((math.log(3) - 0.5) / 2, -0.25), abs=1e-15)
    assert as_csv(found) == "index,instruction_difficulty\n0,0.2993061443\n1,-0.2500000000\n"
    for bad in ([], [annotation(1, 0.5)], [annotation(0, None)], [annotation(0, 1.0)], [annotation(0, math.nan)]):
        with pytest.raises(DataError):
            recovered_difficulty(bad, weights)
    with pytest.raises(DataError, match="weight of the difficulty is 0"):
        recovered_difficulty([annotation(0, 0.5)], alpaca_eval.Weights(1.0, 0.0, 0.0))


def test_leaderboard_cells_are_numbers_where_they_can_be(tmp_path):
    path = tmp_path / "alpaca_eval" / alpaca_eval.LEADERBOARDS["alpaca_eval_2"]
    path.parent.mkdir(parents=True)
    with open(path, "w", newline="") as stream:
        csv.writer(stream).writerows([["", "win_rate", "mode", "lc"], ["m", "50.5", "minimal", ""]])
    row = alpaca_eval.leaderboard(tmp_path)["m"]
    assert row["win_rate"] == 50.5 and row["mode"] == "minimal" and math.isnan(row["lc"])
