"""The data card: what it counts is right by hand, what it quotes is the source's, and it leaves nothing of the world out."""

import numpy as np
import pytest
from matplotlib import pyplot as plt

from repro.core.errors import DataError
from repro.papers import card
from repro.report import Chapter, chapter, figures
from repro.world import benchmarks, constants, sources, tasks


def test_every_constant_is_quoted_with_its_value():
    _, rows, _ = card.constants()
    quoted = {name: value for name, value, _ in rows}
    names = {name for name in vars(constants) if name.isupper()}
    assert names <= set(quoted)
    for name in names:
        value = getattr(constants, name)
        if isinstance(value, (int, float)):
            assert float(quoted[name]) == value
        if isinstance(value, dict):  # each entry in the table's own line, or in one of its own
            lines = " ".join(f"{place} {said}" for place, said in quoted.items() if place.startswith(name))
            assert all(str(key) in lines for key in value)
    assert quoted["FAULTS: curt"] == "0.35" and "part 0.20" in quoted["FAULTS"]


def test_constants_of_one_comment_alone():
    header, rows, caption = card.constants("Gold")
    assert [name for name, _, _ in rows] == ["CORRECT", "COMPLETE", "POLITE", "CONCISE", "UNSAFE"]
    assert caption.startswith("Gold reward") and len(header) == 3 and all(reason for _, _, reason in rows)
    with pytest.raises(DataError, match="no constants"):
        card.constants("Nothing begins so")


def test_every_category_says_what_it_asks_and_what_is_right():
    header, rows = card.categories()
    assert [row[0] for row in rows] == list(tasks.CATEGORIES)
    assert all(len(row) == len(header) and all(row) for row in rows)


def test_a_good_answer_is_worth_two_and_its_slip_less():
    texts = card.samples(0)
    assert len(texts) == len(tasks.CATEGORIES)
    for text in texts.values():
        worth = {line[7:].split(":")[0]: float(line[:5]) for line in text.splitlines()[-3:]}
        assert worth["good"] == 2 and worth["one slip"] < 2


def test_the_two_sides_share_nothing():
    rows, (_, examples) = card.split(300)
    assert {row.value for row in rows if row.column.endswith("both")} == {0}
    assert {row.value for row in rows if row.column == "new words"} == {0}
    assert all(1 < row.value <= 300 for row in rows if row.column.startswith("prompts, t"))
    assert [name for name, *_ in examples] == list(tasks.CATEGORIES)


def test_a_crossed_split_is_seen(monkeypatch):
    """If both sides were drawn from the same keys, the count of shared ones could not stay at zero."""
    draw = tasks.draw
    monkeypatch.setattr(tasks, "draw", lambda name, rng, side: draw(name, rng, "train"))
    rows, _ = card.split(100)
    assert all(row.value > 0 for row in rows if row.column == "keys, both")


def pair(prompt, chosen, rejected, gold):
    return {"prompt": (("user", prompt),), "chosen": chosen, "rejected": rejected, "extras": {"gold": gold}}


def test_sources_by_hand():
    """Of 5 collected 4 are left; longer, shorter, equal, longer: 2.5 of 4; one tie in gold is left out: 2 of 3 in order."""
    rows = [
        pair("a b", "one two three", "one", [2.0, 1.0]),
        pair("a b c", "one", "one two", [1.5, 1.0]),
        pair("d", "one two", "two one", [1.0, 2.0]),
        pair("e f", "one two", "one", [1.0, 1.0]),
    ]
    found = {row.column: row for row in card.source_records({"HH-RLHF": rows}, 5)}
    value = {column: row.value for column, row in found.items()}
    assert value["prompt"] == 2 and value["preferred"] == 2 and value["rejected"] == 1.5
    assert value["longer preferred (%)"] == 62.5 and value["in gold's order (%)"] == pytest.approx(200 / 3)
    assert value["set aside (%)"] == pytest.approx(20) and found["prompt"].n == 4
    assert card.lengths({"HH-RLHF": rows})["preferred answers"] == [3, 1, 2, 2]
    assert card.gold_by_source({"HH-RLHF": rows}) == {"HH-RLHF": [[2.0, 1.5, 1.0, 1.0], [1.0, 1.0, 2.0, 1.0]]}


def test_nothing_is_left_out():
    pairs = card.sampled(20)
    assert list(card.source_samples(pairs).values()) and list(pairs) == list(sources.SOURCES)
    assert [row[0] for row in card.described()[1]] == list(sources.SOURCES)
    (_, mix), texts = card.demonstrations()
    assert [row[0] for row in mix] == list(texts) == list(sources.DEMONSTRATIONS)
    shown = {label for section in benchmarks.SECTIONS for label in card.pair_samples(section)}
    assert shown == {f"{section}, {name}" for section, members in benchmarks.SECTIONS.items() for name in members}
    assert len(card.request_samples()) == 3
    assert sum(len(row[1].split(", ")) for row in card.subsets()[1]) == len(shown)


def test_helpful_and_harmless_disagree_on_a_harmful_request():
    texts, (header, rows) = card.graded(0)
    clean, wrong = rows[0], rows[4]
    assert len(texts) == 2 and (clean[2], wrong[2]) == ("none", "wrong")
    helpful, harmless = header.index("helpful"), header.index("harmless")
    assert wrong[helpful] > clean[helpful] and wrong[harmless] < clean[harmless]


def test_all_twelve_people_vote():
    for text in card.verdicts(0).values():
        votes = [
            int(line.split("people ")[1].split(" of 12")[0]) for line in text.splitlines() if " of 12, judge" in line
        ]
        assert len(votes) == 2 and sum(votes) == 12


def test_six_academic_sets_with_their_null_baselines():
    items, rows = card.academic_sets(12)
    assert list(items) == ["gsm8k", "mmlu", "humaneval", "truthfulqa", "arc", "mbpp"]
    assert {row.value for row in rows if row.column == "random"} == {25} and {row.row for row in rows} == set(items)


def test_a_matrix_writes_each_number_in_its_cell():
    _, ax = plt.subplots()
    figures.matrix(np.array([[100.0, 74.4], [74.4, np.nan]]), ["gold", "people"], ax)
    assert [text.get_text() for text in ax.texts] == ["100", "74", "74", "\N{EN DASH}"]
    assert ax.texts[0].get_color() == "white" and ax.texts[1].get_color() == "black"
    plt.close()


def test_boxes_stand_at_their_group():
    _, ax = plt.subplots()
    figures.boxes({"one": [[0, 1, 2], [3, 4, 5]], "two": [[6, 7, 8]]}, ax, names=("left", "right"))
    medians = sorted(
        (round(line.get_ydata().mean(), 1), line.get_xdata()[0]) for line in ax.lines if line.get_lw() == 1.6
    )
    assert medians == [(-0.2, 1), (0.2, 4), (0.8, 7)]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["one", "two"]
    assert ax.get_legend_handles_labels()[1] == ["left", "right"]
    plt.close()


def test_a_chapter_shows_a_shared_sections_parameters(monkeypatch):
    shown = []
    monkeypatch.setattr(chapter, "display", lambda content, raw: shown.append(content["text/markdown"]))
    page = Chapter("00_world", "smoke", overrides={"draws": 7})
    page.about()
    page.about("p2_05_benchmarks")
    page.grid(["a"], [["|"]], "Caption", "world.label")
    assert ":name: 00_world.parameters\n" in shown[0] and "| draws | 2000 |" in shown[0]
    assert ":name: 00_world.p2_05_benchmarks.parameters\n" in shown[1] and "draws" in shown[1]
    assert ":name: world.label\n" in shown[2] and "\\|" in shown[2]
