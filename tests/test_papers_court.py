"""The court's arithmetic by hand, and its policies, rewards and records on models of a hundred thousand weights."""

import numpy as np
import pytest

from repro.core.settings import load
from repro.models.answers import Answers
from repro.papers import agreement, court, miniature, tour
from repro.papers.miniature import Pool, concordance
from repro.world import tasks


def pool_of(asked, texts):
    finished = np.ones((len(texts), len(texts[0])), dtype=bool)
    answers = Answers(None, texts, finished, finished.astype(int))
    return Pool(asked, answers, miniature.graded(asked, texts))


@pytest.fixture(scope="module")
def asked():
    return miniature.balanced(3, seed=1)


@pytest.fixture(scope="module")
def pools(asked):
    """The large policy answers once without fault, once rudely and once without a word; the others say less."""
    rng = np.random.default_rng(0)
    large = [[tasks.respond(task, rng), tasks.respond(task, rng, ["rude"]), ""] for task in asked]
    small = [["", ""] for _ in asked]
    strong = [[row[0], row[0]] for row in large]
    return {name: pool_of(asked, texts) for name, texts in (("small", small), ("large", large), ("strong", strong))}


def test_concordance_by_hand():
    """Gold orders a < b < c and b = d elsewhere; ties in gold do not count, ties in reward count half."""
    worth = np.array([[0.0, 1.0, 2.0], [1.0, 1.0, 2.0], [1.0, 1.0, 1.0]])
    assert concordance(worth, worth)[:2] == pytest.approx([1, 1])
    assert concordance(-worth, worth)[:2] == pytest.approx([0, 0])
    assert np.isnan(concordance(worth, worth)[2])
    found = concordance(np.array([[5.0, 1.0, 9.0], [3.0, 2.0, 2.0], [1, 2, 3]]), worth)
    assert found[:2] == pytest.approx([2 / 3, (0 + 0.5) / 2])
    assert concordance(np.zeros_like(worth), worth)[:2] == pytest.approx([0.5, 0.5])


def test_balanced_tasks_are_of_every_category_and_level_on_the_test_side(asked):
    assert {task.category for task in asked} == set(tasks.CATEGORIES) and {task.split for task in asked} == {"test"}
    for name, category in tasks.CATEGORIES.items():
        assert {task.difficulty for task in asked if task.category == name} == set(category.levels)
    assert [task.turns for task in miniature.balanced(3, seed=1)] == [task.turns for task in asked]


def test_headroom_knows_the_best_the_empty_and_the_pick(pools):
    found = court.headroom(pools)
    assert set(found) == {"all", *tasks.CATEGORIES}
    for kinds in found.values():
        assert kinds["best"].value == pytest.approx(2.0) == kinds["strong"].value
        assert kinds["small"].value == 0
        assert kinds[court.PICKED].value == pytest.approx(2.0)  # of the pool's three, one is without fault
        assert kinds["small"].value < kinds["random"].value < kinds["best"].value
        assert kinds["large"].value == pytest.approx((2.0 + 1.7 + 0) / 3)
    rows = court.headroom_records(found)
    assert {row.id for row in rows} == {"world.headroom"} and all(row.low <= row.value <= row.high for row in rows)


def test_pressure_is_the_last_less_the_first():
    values = np.array([[[1.0, 2.0, 4.0], [0.0, 1.0, 2.0]]])
    found = court.Pressure([1, 4, 16], values, -values, values[0], (0,))
    assert found.change(values).value == pytest.approx(2.5) and found.change(values, 1).value == pytest.approx(1.5)
    rows = {(row.row, row.column): row.value for row in found.changes()}
    assert rows["gold", "from n = 1 to 16"] == pytest.approx(-2.5)
    assert len(found.records()) == 9


def test_the_benchmark_nulls_are_a_coin_in_every_section():
    """The issue's bound, at the size of the laptop tier."""
    rows = court.benchmark_nulls(court.rewardbench(60))
    longer = {row.row: row.value for row in rows if row.column == "pick the longer"}
    assert set(longer) == {"Chat", "Chat Hard", "Safety", "Reasoning"}
    assert all(47 <= value <= 53 for value in longer.values())


def test_agreements_are_where_people_and_judges_were_meant_to_be():
    names, matrix, rows = agreement.agreements(1500)
    at = {name: place for place, name in enumerate(names)}
    people, judge = at["people"], at["judge"]
    assert 0.65 <= matrix[people, people] <= 0.75 and 0.70 <= matrix[people, at["gold"]] <= 0.80
    assert 0.80 <= matrix[judge, at["gold"]] <= 0.90 and 0.65 <= matrix[judge, people] <= 0.80
    assert matrix[at["weak judge"], at["gold"]] < matrix[judge, at["gold"]]
    assert {row.id for row in rows} == {"world.annotators"}


def test_bias_and_noise_are_two_dials():
    """The contrast's two label sets differ in the share of longer winners, and on the same pairs of answers."""
    biased, fair = (court.labelled_by(court.dialled(dial), 400, 0) for dial in (0.45, 0.0))
    prompts = [[(pair.prompt, frozenset((pair.chosen, pair.rejected))) for pair in pairs] for pairs in (biased, fair)]
    assert prompts[0] == prompts[1]
    longer = [np.mean([len(pair.chosen) > len(pair.rejected) for pair in pairs]) for pairs in (biased, fair)]
    assert longer[0] > longer[1] + 0.08


def test_the_followed_prompt_is_graded_by_hand(asked, pools):
    found = tour.follow(asked, pools)
    assert found.task.category == tour.FOLLOWED
    best, worst = (dict(zip(found.grades[0], line, strict=True)) for line in found.grades[1][-2:])
    assert float(best["gold"]) == 2.0 and float(worst["gold"]) == 0.0


def test_every_tier_names_its_models_and_sizes():
    for tier in ("paper", "gpu", "laptop", "smoke"):
        settings = load(tier)
        world = settings.section(miniature.SECTION)
        made = [world[role].startswith(miniature.MINIATURE) for role in miniature.ROLES]
        assert all(made) or not any(made)
        assert settings.section("00_tour").bon_n[-1] <= settings.section("00_tour").pool


def test_balanced_asks_no_prompt_twice_while_a_level_has_others():
    asked = miniature.balanced(60, 0)
    assert len({task.turns for task in asked}) == len(asked) == 60 * len(tasks.CATEGORIES)
    again = miniature.balanced(60, 0)
    assert [task.turns for task in again] == [task.turns for task in asked]
