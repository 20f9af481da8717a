"""The world's benchmarks: fair in length and style, of the test side, one word apart, the same twice."""

import json
import re
from collections import Counter

import numpy as np
import pytest

from repro.core.errors import DataError
from repro.world import academic, benchmarks, knowledge, programs, tasks
from repro.world.task import TEST, TRAIN, Task, side

PER_SUBSET, COUNT = 24, 120
ONE_WORD = re.compile(r"constraints|.*-slip|(sums|programs)-\d")


@pytest.fixture(scope="module")
def pairs():
    return benchmarks.rewardbench(PER_SUBSET, seed=0)


@pytest.fixture(scope="module")
def exams():
    return academic.academic(COUNT, seed=0)


def wins(rows, feature):
    """Share won by the side with more of a feature; ties half."""
    return np.mean([0.5 + 0.5 * np.sign(feature(row["chosen"]) - feature(row["rejected"])) for row in rows])


class TestPairs:
    def test_every_subset_is_full_and_in_its_section(self, pairs):
        counts = Counter((row["section"], row["subset"]) for row in pairs)
        named = {(section, subset) for section, subsets in benchmarks.SECTIONS.items() for subset in subsets}
        assert set(counts) == named and set(counts.values()) == {PER_SUBSET}
        assert len(benchmarks.SECTIONS) == 4 and min(map(len, benchmarks.SECTIONS.values())) >= 4

    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_the_longer_answer_is_no_better(self, pairs, seed):
        rows = pairs if seed == 0 else benchmarks.rewardbench(PER_SUBSET, seed)
        assert set(benchmarks.pick_longer(rows)) == set(benchmarks.SECTIONS)
        assert all(0.47 <= share <= 0.53 for share in benchmarks.pick_longer(rows).values())
        for subset in {row["subset"] for row in rows}:
            assert abs(wins([row for row in rows if row["subset"] == subset], len) - 0.5) <= 0.5 / PER_SUBSET + 1e-9

    @pytest.mark.parametrize("feature", benchmarks.STYLE[1:])
    def test_style_tells_nothing_outside_chat(self, pairs, feature):
        for section in set(benchmarks.SECTIONS) - {"Chat"}:
            assert wins([row for row in pairs if row["section"] == section], feature) == pytest.approx(0.5, abs=0.03)

    def test_pick_longer_by_hand(self):
        answers = [("Chat", "long", "a"), ("Chat", "long", "b"), ("Chat", "a", "long"), ("Safety", "a", "b")]
        rows = [{"section": section, "chosen": chosen, "rejected": rejected} for section, chosen, rejected in answers]
        assert benchmarks.pick_longer(rows) == pytest.approx({"Chat": 2 / 3, "Safety": 0.5})

    def test_hard_negatives_differ_in_one_word(self, pairs):
        hard = [row for row in pairs if ONE_WORD.match(row["subset"])]
        assert len(hard) == 14 * PER_SUBSET
        for row in hard:
            chosen, rejected = row["chosen"].split(), row["rejected"].split()
            assert sum(a != b for a, b in zip(chosen, rejected, strict=True)) == 1

    def test_gold_prefers_the_chosen_answer_of_every_pair(self, pairs):
        for row in pairs:
            asked = Task.of(json.loads(json.dumps(row["extras"]["task"])))
            chosen, rejected = (tasks.grade(asked, row[which]).gold for which in ("chosen", "rejected"))
            assert [chosen, rejected] == row["extras"]["gold"] and chosen > rejected
            assert row["prompt"] == asked.turns and asked.split == TEST and all(side(key) == TEST for key in asked.keys)

    def test_prompts_differ_in_a_subset_and_both_answers_are_there(self, pairs):
        assert len({(row["subset"], row["prompt"]) for row in pairs}) == len(pairs)
        assert all(row["chosen"].strip() and row["rejected"].strip() for row in pairs)

    def test_the_same_seed_gives_the_same_pairs_another_others(self):
        first, again, other = (benchmarks.rewardbench(2, seed) for seed in (3, 3, 4))
        assert first == again != other

    def test_no_items_and_too_many(self):
        assert benchmarks.rewardbench(0, seed=0) == []
        with pytest.raises(DataError, match="only 1 of 5"):
            benchmarks.collect(lambda place, rng: ("the same", place), 5, (0,))

    def test_what_leans_to_one_side_is_passed_over(self):
        """Items of either sign come at random; the sum of those kept never leaves -3 to 3, the root of LEAD."""
        kept = benchmarks.collect(
            lambda place, rng: (rng.random(), rng.choice([-1, 1, 1])), 100, (0,), lambda item: item
        )
        assert max(abs(np.cumsum(kept))) <= 3


class TestRequests:
    def test_chat_holds_the_stated_mixture(self):
        asked = benchmarks.chat(200, seed=0)
        stated = Counter(benchmarks.CHAT)
        assert Counter(each.category for each in asked) == {name: 10 * count for name, count in stated.items()}
        assert set(stated) == set(tasks.CATEGORIES) - {"dialogue"} and sum(stated.values()) == 20

    def test_hard_requests_are_of_the_hard_levels(self):
        asked = benchmarks.hard(80, seed=0)
        assert Counter((each.category, each.difficulty) for each in asked) == dict.fromkeys(benchmarks.HARD, 10)

    @pytest.mark.parametrize("make", [benchmarks.chat, benchmarks.hard, benchmarks.two_turn])
    def test_all_are_of_the_test_side_distinct_and_the_same_twice(self, make):
        asked = make(150, 1)
        assert len({each.turns for each in asked}) == len(asked) == 150
        assert {each.split for each in asked} == {TEST} and all(
            side(key) == TEST for each in asked for key in each.keys
        )
        assert make(150, 1) == asked != make(150, 2) and make(0, 1) == []

    def test_second_turns_follow_the_answers_that_were_given(self):
        first, rng = benchmarks.two_turn(30, seed=0), np.random.default_rng(0)
        answers = [tasks.respond(each, rng, tasks.faults(rng)) for each in first]
        second = benchmarks.second_turns(first, answers, seed=0)
        assert Counter(each.facts["kind"] for each in second) == {"fact": 10, "more": 10, "sum": 10}
        for asked, answer, follow in zip(first, answers, second, strict=True):
            assert follow.turns[:2] == (*asked.turns, ("assistant", answer)) and follow.turns[2][0] == "user"
            assert tasks.grade(follow, tasks.respond(follow, rng)).gold == pytest.approx(2.0)
        alone = benchmarks.second_turns(first, ["Sure.", *answers[1:]], seed=0)
        assert alone[1:] == second[1:]
        with pytest.raises(DataError, match="29 answers to 30"):
            benchmarks.second_turns(first, answers[1:], seed=0)


class TestAcademic:
    @pytest.mark.parametrize("name", ["mmlu", "arc", "truthfulqa"])
    def test_choices_are_four_and_balanced_in_place_and_length(self, exams, name):
        rows = exams[name]
        assert Counter(row["answer"] for row in rows) == dict.fromkeys(range(4), COUNT // 4)
        assert all(len(set(row["choices"])) == 4 and row["question"].endswith("?") for row in rows)
        found = academic.null_baselines(rows)
        assert found["random"] == 0.25 and found["longest"] == pytest.approx(0.25, abs=1 / COUNT)
        subjects = {row["subject"] for row in rows}
        assert subjects == ({"comes"} if name == "arc" else set(knowledge.DIRECT))

    @pytest.mark.parametrize(("category", "level"), [("facts", 1), ("facts", 2), ("premises", 1)])
    def test_the_first_choice_alone_is_right(self, category, level):
        rng = np.random.default_rng(0)
        for _ in range(200):
            asked = tasks.draw(category, rng, TEST, level)
            right, *wrong = (tasks.grade(asked, each) for each in academic.choices_of(asked, rng))
            assert right.correct == right.complete == 1 and len(wrong) == 3
            assert max(each.correct for each in wrong) <= 0.5

    def test_two_hops_need_both_hops(self):
        """Each food and each place stands in two of the four choices, so that neither alone tells."""
        asked = tasks.draw("facts", np.random.default_rng(1), TEST, 2)
        said = [each.rstrip(".").split() for each in academic.choices_of(asked, np.random.default_rng(2))]
        assert (
            set(Counter(each[4] for each in said).values()) == set(Counter(each[-1] for each in said).values()) == {2}
        )

    def test_premises_deny_and_agree_alike(self, exams):
        for row in exams["truthfulqa"]:
            assert sum(knowledge.DENIES in choice for choice in row["choices"]) == 2
        denied = np.mean([knowledge.DENIES in row["choices"][row["answer"]] for row in exams["truthfulqa"]])
        assert 0.3 < denied < 0.7

    def test_sums_and_programs_come_with_their_solutions(self, exams):
        for row in exams["gsm8k"]:
            assert row["solution"].rstrip(".").endswith(f" {row['answer']}")
        for name, shown in (("humaneval", False), ("mbpp", True)):
            for row in exams[name]:
                program = row["solution"].removeprefix("Program: ").rstrip(".")
                assert [programs.run(program, given) for given, _ in row["tests"]] == [
                    wanted for _, wanted in row["tests"]
                ]
                assert ("For example" in row["prompt"]) == shown
        assert {row["difficulty"] for name in ("gsm8k", "humaneval", "mbpp") for row in exams[name]} == {1, 2, 3}

    def test_questions_differ_and_sides_share_none(self, exams):
        examples = academic.academic(COUNT, seed=0, split=TRAIN)
        assert list(exams) == ["gsm8k", "mmlu", "humaneval", "truthfulqa", "arc", "mbpp"] == list(examples)
        for name in exams:
            asked, shown = ({row.get("prompt") or row["question"] for row in rows[name]} for rows in (exams, examples))
            assert len(asked) == len(shown) == COUNT and not asked & shown

    def test_files_hold_the_rows_and_the_same_bits_twice(self, tmp_path):
        for folder in (tmp_path / "a", tmp_path / "b"):
            academic.write_academic(folder, 8, 4, seed=5)
        wanted = academic.academic(8, seed=5)
        for name, rows in wanted.items():
            path = tmp_path / "a" / f"{name}.jsonl"
            assert [json.loads(line) for line in path.read_text().splitlines()] == rows
            assert path.read_bytes() == (tmp_path / "b" / f"{name}.jsonl").read_bytes()
            assert len((tmp_path / "a" / "train" / f"{name}.jsonl").read_text().splitlines()) == 4

    def test_null_baselines_by_hand(self):
        rows = [{"choices": ["aaa", "bb"], "answer": 0}, {"choices": ["aa", "bb"], "answer": 1}]
        assert academic.null_baselines(rows) == {"random": 0.5, "longest": 0.75}
        assert academic.null_baselines([{"answer": "7"}, {"answer": "7"}, {"answer": "8"}]) == {"constant": 2 / 3}
        with pytest.raises(DataError, match="no rows"):
            academic.null_baselines([])
