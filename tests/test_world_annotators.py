"""Annotators: bias and noise are two dials, and nobody is an oracle."""

import numpy as np
import pytest

from repro.core.errors import DataError, SettingsError
from repro.world import annotators, constants, tasks
from repro.world.annotators import Human, Judge, agreement, panel, read, weak_judge
from repro.world.task import Task

EXACT = {"temperature_inverse": np.inf, "careless": 0.0, "verbosity": 0.0}
PAIRS = 1500  # a share of these has a standard error of .012


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def drawn():
    """Tasks of all categories from the test side and two answers of mixed-quality writers to each."""
    source, names = rng(1), list(tasks.CATEGORIES)
    asked = [tasks.draw(names[i % len(names)], source, "test") for i in range(PAIRS)]
    return asked, *([tasks.respond(task, source, tasks.faults(source)) for task in asked] for _ in "12")


@pytest.fixture(scope="module")
def sides(drawn):
    asked, first, second = drawn
    return read(asked, first), read(asked, second)


def longer(sides, labels):
    """Share of pairs of unequal length in which the longer is preferred."""
    difference = sides[0].words - sides[1].words
    return ((difference > 0) == (labels == 1))[difference != 0].mean()


def test_without_noise_and_bias_a_person_is_the_gold_order(drawn, sides):
    labels = Human(**EXACT).label(*drawn, rng())
    differ = np.round(sides[0].gold - sides[1].gold, 9) != 0
    assert differ.sum() > 1000
    assert (labels == (sides[0].gold > sides[1].gold))[differ].all()
    assert labels[~differ].mean() == pytest.approx(0.5, abs=0.15)  # what is equal is a coin flip


def test_one_pair_by_hand():
    """Gold differs by courtesy alone, 0.3 - 0.15; one word more; sigmoid(4 (0.15 + 0.15 / 10)), a coin one time in ten."""
    task = Task(
        "sums",
        (("user", "What is 31 plus 67?"),),
        {"name": None, "numbers": [31, 67], "signs": ["plus"]},
        1,
        "train",
        (),
    )
    polite, curt = "Sure. 31 plus 67 is 98.", "31 plus 67 is 98."
    labels = Human().label([task] * 8000, [polite] * 8000, [curt] * 8000, rng())
    expected = 0.9 / (1 + np.exp(-4 * (0.15 + 0.015))) + 0.05
    assert labels.mean() == pytest.approx(expected, abs=0.02)


def test_bias_alone_prefers_the_longer_and_leaves_pairs_of_equal_length(sides):
    shares, equal = [], sides[0].words == sides[1].words
    labels = [Human(verbosity=bias).prefer(*sides, rng()) for bias in (0.0, 0.15, 0.6)]
    shares = [longer(sides, label) for label in labels]
    assert shares[0] + 0.05 < shares[1] < shares[2] - 0.1
    assert equal.sum() > 50
    assert (labels[0] == labels[2])[equal].all()


def test_noise_alone_leaves_the_share_of_longer(sides):
    gold = longer(sides, Human(**EXACT).prefer(*sides, rng()))
    right = []
    for noise in ({"temperature_inverse": 4.0}, {"temperature_inverse": 1.0}, {"careless": 0.6}):
        labels = Human(**{**EXACT, **noise}).prefer(*sides, rng())
        # noise draws every share to a half; it makes nobody like length
        assert min(gold, 0.5) - 0.03 < longer(sides, labels) < max(gold, 0.5) + 0.03
        right.append((labels == (sides[0].gold > sides[1].gold)).mean())
    assert right[0] > right[1] + 0.05
    assert right[0] > right[2] + 0.05


def test_taste_is_a_persons_own_and_drawn_once(sides):
    people = panel(size=6, **EXACT)
    assert people == panel(size=6, **EXACT)
    assert len({person.offsets for person in people.people}) == 6
    told = people.everyone(*sides, rng())
    assert (told == people.everyone(*sides, rng(1))).mean() > 0.9  # without noise only equal utilities are flipped
    assert (told[0] != told[1]).any()
    same = panel(size=2, taste=0.0, **EXACT)
    assert same.people[0] == same.people[1] == Human(**EXACT)
    with pytest.raises(SettingsError, match="a panel of 0"):
        panel(size=0)


def test_agreement_is_that_of_people_and_judges(drawn):
    """The aims that fixed the constants: nobody is an oracle, people agree with each other as real ones do."""
    who = {"human": panel(), "unbiased": panel(verbosity=0.0), "judge": Judge(), "weak": weak_judge()}
    names, table, pairs = agreement(*drawn, who, rng())
    assert pairs[0, 0] == pairs.max() > 0.8 * len(drawn[0])
    assert names == ["gold", "longer", "human", "unbiased", "judge", "weak"]
    cell = {(one, other): table[i, j] for i, one in enumerate(names) for j, other in enumerate(names)}
    assert 0.65 < cell["human", "human"] < 0.75
    assert 0.70 < cell["human", "gold"] < 0.80
    assert 0.65 < cell["judge", "human"] < 0.80
    assert 0.80 < cell["judge", "gold"] < 0.90
    assert cell["weak", "gold"] < cell["judge", "gold"] - 0.05
    assert cell["human", "longer"] > cell["unbiased", "longer"] + 0.03
    assert cell["gold", "gold"] == cell["judge", "judge"] == 1
    assert np.allclose(table, table.T)


def test_agreement_leaves_equal_gold_and_ties_out(drawn):
    asked, first, _ = drawn
    _, table, _ = agreement(asked[:20], first[:20], first[:20], {"judge": Judge(ties=True)}, rng())
    assert np.isnan(table).all()


def test_a_judge_says_the_same_again_and_by_no_order(drawn):
    asked, first, second = drawn
    judge, scores = Judge(), Judge().score(asked, first)
    assert set(scores) <= {1, 2, 3, 4, 5}
    assert len(set(scores)) >= 4
    assert (judge.score(asked[::-1], first[::-1]) == scores[::-1]).all()
    assert (judge.label(*drawn, rng()) == 1 - judge.label(asked, second, first, rng(1))).all()
    assert (Judge(seed=5).score(asked, first) != scores).any()


def test_a_judges_ties_are_a_choice(sides):
    level, told = Judge(ties=True).prefer(*sides, rng()), Judge().prefer(*sides, rng())
    assert 0.2 < (level == annotators.TIE).mean() < 0.6
    assert (level == told)[level != annotators.TIE].all()
    same_text = np.array(sides[0].texts) == np.array(sides[1].texts)
    assert (told[same_text] == annotators.TIE).all()
    assert (told[~same_text] != annotators.TIE).mean() > 0.99


def test_a_judge_misses_a_slip_as_often_as_stated():
    source = rng(2)
    asked = [tasks.draw("sums", source, difficulty=1) for _ in range(1500)]
    wrong = [tasks.respond(task, source, ["wrong"]) for task in asked]
    sure = {"verbosity": 0.0, "noise": 0.0}
    missed = Judge(**sure).score(asked, wrong) > Judge(**sure, misses={}).score(asked, wrong)
    assert missed.mean() == pytest.approx(constants.JUDGE_MISSES["sums"], abs=0.03)
    assert Judge(**sure, misses={"sums": 1.0}).view(read(asked[:1], [""]))[0] == 0  # nobody misses an empty answer


def test_rubrics_share_out_one_and_cover_every_category():
    assert set(constants.RUBRICS) == set(tasks.CATEGORIES)
    for weights in constants.RUBRICS.values():
        assert sum(weights) == pytest.approx(1)
        assert len(weights) == len(annotators.PARTS)
    assert set(constants.JUDGE_MISSES) <= set(tasks.CATEGORIES)


def test_answers_without_their_tasks_are_named(drawn):
    with pytest.raises(DataError, match="2 tasks but 1 answers"):
        read(drawn[0][:2], ["one"])
