"""Preference sources: shaped like p2.table5, the same every time, and no test entity in a training row."""

import json

import numpy as np
import pytest

from repro.core.errors import SettingsError
from repro.world import constants, sources, tasks
from repro.world.annotators import Human
from repro.world.task import Task, side

PREFERRED_LONGER = {  # p2.table5
    "HH-RLHF": True,
    "SHP": True,
    "HelpSteer": True,
    "PKU-SafeRLHF-30K": False,
    "UltraFeedback": True,
    "UltraInteract": False,
    "CodeUltraFeedback": True,
    "Argilla-Math": True,
    "OpenOrca": False,
    "Capybara": False,
}
PAIRS_A_PROMPT = {  # p2.table5, #Pairs / #Prompts
    "HH-RLHF": 1.00,
    "SHP": 3.01,
    "HelpSteer": 4.32,
    "PKU-SafeRLHF-30K": 3.85,
    "UltraFeedback": 5.35,
    "UltraInteract": 2.13,
    "CodeUltraFeedback": 5.05,
    "Argilla-Math": 1.03,
    "OpenOrca": 1.02,
    "Capybara": 1.00,
}
EXACT = Human(verbosity=0.0, temperature_inverse=np.inf, careless=0.0)


@pytest.fixture(scope="module")
def collected():
    """1,200 raw rows of every source, more of the one whose sides differ least in length."""
    return {name: sources.raw(name, 4800 if name == "Argilla-Math" else 1200, seed=3) for name in sources.SOURCES}


def row(chosen, rejected, annotator="human", scores=None):
    extras = {"annotator": annotator} | ({"scores": scores} if scores else {})
    return {
        "prompt": (("user", "Why?"),),
        "chosen": chosen,
        "rejected": rejected,
        "source": "HH-RLHF",
        "extras": extras,
    }


@pytest.mark.parametrize("name", PREFERRED_LONGER)
def test_a_source_has_the_papers_longer_side_and_pairs_a_prompt(collected, name):
    kept, _ = sources.clean(collected[name])
    difference = np.array([len(each["chosen"].split()) - len(each["rejected"].split()) for each in kept])
    error = difference.std() / np.sqrt(len(kept))
    assert difference.mean() * (1 if PREFERRED_LONGER[name] else -1) > 2 * error
    (found,) = sources.lengths(kept)
    assert found["pairs"] / found["prompts"] == pytest.approx(PAIRS_A_PROMPT[name], rel=0.1)
    assert (found["preferred"] > found["rejected"]) == PREFERRED_LONGER[name]


def test_cleaning_sets_about_a_tenth_of_mix2_aside(collected):
    """p2.c13, weighted by the paper's sizes."""
    weights = [sources.SOURCES[name].pairs for name in sources.TABLE5]
    removed = [sum(sources.clean(collected[name])[1].values()) / 1200 for name in sources.TABLE5]
    assert 0.06 < np.average(removed, weights=weights) < 0.14
    assert min(removed) > 0


def test_rows_say_what_they_are(collected):
    for name, rows in collected.items():
        for each in rows[:50]:
            task = Task.of(json.loads(json.dumps(each["extras"]["task"])))
            assert task.turns == each["prompt"]
            assert each["source"] == name
            golds = [tasks.grade(task, each[which]).gold for which in ("chosen", "rejected")]
            assert each["extras"]["gold"] == pytest.approx(golds, abs=1e-6)
            assert each["extras"]["annotator"] == sources.SOURCES[name].annotator
            if scores := each["extras"].get("scores"):
                assert scores[0] >= scores[1]
            assert ("scores" in each["extras"]) == (each["extras"]["annotator"] != "human")


def test_votes_are_two_to_one_and_at_most_five_pairs_a_prompt(collected):
    """p2.shp."""
    scores = np.array([each["extras"]["scores"] for each in collected["SHP"]])
    assert (scores[:, 0] >= 2 * scores[:, 1]).all()
    prompts = [each["prompt"] for each in sources.clean(collected["SHP"])[0]]
    assert max(prompts.count(prompt) for prompt in set(prompts)) <= 5


def test_each_reason_is_counted_by_hand():
    rows = [
        row("Yes.", "No."),
        row("Yes.", "No."),
        row("No.", "Yes."),  # the other way round is another opinion
        row("Yes.", " Yes. "),
        row("Yes.", " "),
        row("", "No."),
        row("A.", "B.", "judge", [3.0, 3.0]),
        row("A.", "B.", "judge", [3.02, 3.0]),
        row("A.", "B.", "judge", [4.0, 3.0]),
        row("A.", "C.", "votes", [3.0, 2.0]),
        row("A.", "C.", "votes", [4.0, 2.0]),
    ]
    kept, counts = sources.clean(rows)
    assert [rows.index(each) for each in kept] == [0, 2, 8, 10]
    assert counts == {"repeated": 1, "equal": 1, "empty": 2, "tie": 1, "small margin": 2}


def test_no_test_key_in_training_rows_and_none_of_training_in_test_rows():
    for split in ("train", "test"):
        rows = sources.mixture("mix2", 300, seed=0, split=split)
        drawn = [Task.of(each["extras"]["task"]) for each in rows] + sources.prompts(100, split, seed=0)
        assert {side(key) for task in drawn for key in task.keys} == {split}
        assert {task.split for task in drawn} == {split}


@pytest.mark.parametrize("name", ["HH-RLHF", "SHP", "UltraFeedback"])
def test_more_rows_begin_with_the_same_rows(name):
    few, many = sources.pairs(name, 40, seed=1), sources.pairs(name, 150, seed=1)
    assert len(many) == 150
    assert many[:40] == few
    assert few != sources.pairs(name, 40, seed=2)
    assert {each["prompt"] for each in many}.isdisjoint(each["prompt"] for each in sources.pairs(name, 150, 1, "test"))


def test_demonstrations_and_prompts_begin_with_the_same_too():
    assert sources.demonstrations(60, 0)[:20] == sources.demonstrations(20, 0)
    assert sources.prompts(60, "train", 0)[:20] == sources.prompts(20, "train", 0)


def test_sizes_are_in_the_papers_proportion():
    """mix1: 115,396 : 93,301 : 340,025 : 92,858 of 641,580."""
    assert sources.sizes("mix1", 641_580) == {
        "HH-RLHF": 115_396,
        "SHP": 93_301,
        "UltraFeedback": 340_025,
        "Summarization": 92_858,
    }
    assert tuple(sources.sizes("mix2", 8000)) == sources.TABLE5
    assert sum(sources.sizes("mix2", 777).values()) == 777
    rows = sources.mixture(["SHP", "WebGPT"], 120, seed=0)
    assert {found["source"]: found["pairs"] for found in sources.lengths(rows)} == sources.sizes(["SHP", "WebGPT"], 120)
    assert rows == sources.mixture(["SHP", "WebGPT"], 120, seed=0)


def test_another_annotator_labels_the_same_pairs():
    """The bias and noise of a data set are dials: what is asked and answered stays."""
    rows, exact = sources.raw("HH-RLHF", 300, 0), sources.raw("HH-RLHF", 300, 0, annotator=EXACT)
    for one, other in zip(rows, exact, strict=True):
        assert one["prompt"] == other["prompt"]
        assert {one["chosen"], one["rejected"]} == {other["chosen"], other["rejected"]}
    assert all(np.subtract(*each["extras"]["gold"]) >= 0 for each in exact)
    assert any(np.subtract(*each["extras"]["gold"]) < 0 for each in rows)
    assert "scores" not in sources.raw("SHP", 1, 0, annotator=EXACT)[0]["extras"]


def test_demonstrations_cover_every_category_and_clean_ones_are_right():
    rough, clean = sources.demonstrations(1500, 0), sources.demonstrations(400, 0, style="clean")
    share = {name: np.mean([each["category"] == name for each in rough]) for name in tasks.CATEGORIES}
    assert share["sums"] >= 0.18
    assert share["programs"] >= 0.12
    assert min(share.values()) > 0.05
    assert {each["source"] for each in rough} == set(sources.DEMONSTRATIONS)
    for each in rough[:200]:
        roles = [message["role"] for message in each["messages"]]
        assert roles == ["user", "assistant"] * (2 if each["category"] == "dialogue" else 1)
    short = [len(each["messages"][-1]["content"].split()) for each in clean]
    assert np.mean(short) < np.mean([len(each["messages"][-1]["content"].split()) for each in rough])
    assert not any(rude in each["messages"][-1]["content"] for each in clean for rude in tasks.language.RUDE)


def test_prompts_come_from_the_sources_named():
    assert {task.category for task in sources.prompts(50, "train", 0, ["UltraInteract"])} == {"sums", "programs"}
    assert {task.category for task in sources.prompts(400, "train", 0)} == set(tasks.CATEGORIES)
    assert len(sources.PROMPTS) == 6


def test_unknown_names_are_errors():
    for call in (
        lambda: sources.pairs("HH", 1, 0),
        lambda: sources.sizes("mix3", 1),
        lambda: sources.prompts(1, "train", 0, ["Nectar"]),
        lambda: sources.pairs("SHP", 1, 0, "dev"),
    ):
        with pytest.raises(SettingsError):
            call()


def test_every_writer_makes_known_faults():
    assert set(tasks.FAULTS) >= {fault for rates in constants.WRITERS.values() for fault in rates}
    assert {writer for source in sources.SOURCES.values() for writer in source.writers} <= set(constants.WRITERS)
