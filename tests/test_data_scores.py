"""Recorded scores and verdicts: arena-bench, GPT-4-LLM and PandaLM, on rows made by hand and on the real files."""

import gzip
import json

import pytest

from repro.core.errors import DataError, MissingInput, SettingsError
from repro.core.paths import data_folder
from repro.data import arena_bench, gpt4_llm, hub, pandalm
from repro.data.schema import Reason, Unusable


def save(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = value if ".jsonl" not in path.name else None
    text = json.dumps(lines) if lines is not None else "".join(json.dumps(row) + "\n" for row in value)
    path.write_bytes(gzip.compress(text.encode()))


def need(name):
    folder = data_folder()
    if folder is None or not (folder / name).is_dir():
        pytest.skip(f"no data folder with {name}: `repro data fetch` brings it, or set REPRO_DATA")
    return folder


def reason_of(build, *arguments):
    with pytest.raises(Unusable) as caught:
        build(*arguments)
    return caught.value.reason


def rated(**changes):
    asked = f"[Question]\nWhy?\n{arena_bench.BEFORE}\nBecause. \n{arena_bench.AFTER}"
    return {"question_id": "q", "model": "x/gpt-4", "user_prompt": asked, "judgment": "[[9]]", "score": 9} | changes


def test_a_rating_is_the_judges_score_of_an_answer():
    assert arena_bench.rating_from(rated(), "gpt-4") == arena_bench.Rating("q", "gpt-4", "Because.", 9.0)
    for unread in (None, -1):
        assert arena_bench.rating_from(rated(score=unread), "gpt-4").score is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"score": 0}, Reason.OUT_OF_RANGE),
        ({"score": 11}, Reason.OUT_OF_RANGE),
        ({"score": "9"}, Reason.WRONG_TYPE),
        ({"score": True}, Reason.WRONG_TYPE),
        ({"score": float("nan")}, Reason.OUT_OF_RANGE),
        ({"user_prompt": "[Question]\nWhy?"}, Reason.MISSING),
        ({"question_id": 7}, Reason.WRONG_TYPE),
    ],
)
def test_a_rating_that_cannot_be_used_says_why(changes, reason):
    assert reason_of(arena_bench.rating_from, rated(**changes), "gpt-4") == reason


def test_a_question_rated_twice_counts_once(tmp_path):
    file = tmp_path / arena_bench.NAME / arena_bench.JUDGMENTS.format(model="gpt-4-0314")
    save(file, [rated(), rated(score=2), rated(question_id="r", score=None), {"question_id": "s"}])
    loaded = arena_bench.load(tmp_path, models=["gpt-4-0314"])
    assert [(each.question_id, each.score) for each in loaded.rows] == [("q", 9.0), ("r", None)]
    assert loaded.counts() == {Reason.REPEATED: 1, Reason.MISSING: 1}
    with pytest.raises(SettingsError, match="unknown model 'gpt-5'"):
        arena_bench.load(tmp_path, models=["gpt-5"])


def test_scores_keep_their_places(tmp_path):
    listed = [9.0, 0, None, 8.5, "9", 10, True, 11]
    save(tmp_path / gpt4_llm.NAME / gpt4_llm.FILE, {"gpt4": listed, "weak": [1]})
    loaded = gpt4_llm.load(tmp_path)
    assert loaded.rows == (
        gpt4_llm.ModelScores("gpt4", (9.0, 8.5, 10.0), (1, 4, 6), 8),
        gpt4_llm.ModelScores("weak", (1.0,), (1,), 1),
    )
    assert loaded.counts() == {Reason.OUT_OF_RANGE: 2, Reason.MISSING: 1, Reason.WRONG_TYPE: 2}
    assert [(each.where.split(", ")[1], each.row) for each in loaded.set_aside] == [
        ("gpt4", k) for k in (2, 3, 5, 7, 8)
    ]


@pytest.mark.parametrize("content", [[1, 2], {}, {"gpt4": 9}, {"gpt4": []}, {"gpt4": [0, None]}])
def test_a_file_without_lists_of_scores_is_refused(content, tmp_path):
    save(tmp_path / gpt4_llm.NAME / gpt4_llm.FILE, content)
    with pytest.raises(DataError):
        gpt4_llm.load(tmp_path)


def test_a_cut_file_of_scores_is_refused(tmp_path):
    file = tmp_path / gpt4_llm.NAME / gpt4_llm.FILE
    save(file, {"gpt4": list(range(1, 10)) * 2000})
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match="cut short"):
        gpt4_llm.load(tmp_path)


def comparison(people, judge=1):
    return pandalm.Comparison((("user", "a"),), ("x", "y"), people, {pandalm.GPT: judge})


def test_what_people_say_of_a_comparison():
    """A shared tie is an agreement on no answer; three different verdicts have no majority."""
    cases = {
        (2, 2, 2): (2, True),
        (1, 1, 2): (1, False),
        (0, 0, 1): (0, False),
        (0, 0, 0): (0, False),
        (0, 1, 2): (None, False),
    }
    assert {people: (comparison(people).majority, comparison(people).unanimous) for people in cases} == cases
    pair = comparison((2, 2, 2)).pair(2)
    assert (pair.chosen, pair.rejected) == ("y", "x") and comparison((2, 2, 2)).pair(1).chosen == "x"


def compared(**changes):
    row = {"idx": 0, "instruction": "Do it.", "input": "", "response1": "x", "response2": "y"}
    return row | {name: 1 for name in pandalm.PEOPLE} | changes


def test_pandalm_joins_judges_by_their_index(tmp_path):
    home = tmp_path / pandalm.NAME
    rows = [
        compared(),
        compared(idx=1, input="With this."),
        compared(idx=2, response1=True),
        compared(idx=3, response2=" "),
    ]
    rows += [compared(idx=4, annotator2=3), compared(idx=5, instruction=""), compared(idx=6)]
    save(home / pandalm.FILE, rows)
    said = ["2", "Tie", "1", "1", "1", "1", "garbage"]
    save(home / pandalm.JUDGES[pandalm.GPT][0], [{"idx": k, "gpt_result": word} for k, word in enumerate(said)][::-1])
    save(home / pandalm.JUDGES[pandalm.PANDALM][0], [{"idx": 0, "pandalm_result": 0}, {"idx": 1, "pandalm_result": 7}])
    loaded = pandalm.load(tmp_path)
    assert [each.judges[pandalm.GPT] for each in loaded.rows] == [2, 0, None]
    assert [each.judges[pandalm.PANDALM] for each in loaded.rows] == [0, None, None]
    assert loaded.rows[1].prompt == (("user", "Do it.\n\nWith this."),)
    assert loaded.counts() == {
        Reason.NO_CHOICE: 2, Reason.WRONG_TYPE: 1, Reason.EMPTY_ANSWER: 1, Reason.EMPTY_TURN: 1,
    }  # fmt: skip


@pytest.mark.parametrize("adapter", [arena_bench, gpt4_llm, pandalm])
def test_without_the_data_the_way_to_it_is_named(adapter, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "data_folder", lambda: None)
    with pytest.raises(MissingInput, match="repro data fetch"):
        adapter.load()
    with pytest.raises(MissingInput):
        adapter.load(tmp_path)
    (tmp_path / adapter.NAME).mkdir()
    with pytest.raises(MissingInput, match="the file is not there"):
        adapter.load(tmp_path)


def test_arena_bench_counts():
    loaded = arena_bench.load(need(arena_bench.NAME))
    assert len(loaded.rows) == 2400 and not loaded.set_aside
    assert len({each.question_id for each in loaded.rows}) == 300
    assert sum(each.score is None for each in loaded.rows) == 21


def test_gpt4_llm_lists_differ_in_length_so_no_pair_can_be_read():
    loaded = gpt4_llm.load(need(gpt4_llm.NAME))
    assert {each.model: each.listed for each in loaded.rows} == {
        "text-davinci-003": 51183, "icm-1.3b": 51428, "gpt4": 51445,
    }  # fmt: skip
    assert loaded.counts() == {Reason.OUT_OF_RANGE: 119}


def test_pandalm_counts():
    loaded = pandalm.load(need(pandalm.NAME))
    assert len(loaded.rows) + len(loaded.set_aside) == 999
    assert loaded.counts() == {Reason.EMPTY_ANSWER: 54, Reason.WRONG_TYPE: 6}
    assert len({each.prompt for each in loaded.rows}) == 164
