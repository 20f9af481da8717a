"""p1's four steps by hand, and the whole framework on policies of a stand-in: what is dropped has a reason."""

from dataclasses import replace

import numpy as np
import pytest

from repro.core import inventory
from repro.core.errors import SettingsError
from repro.core.settings import load
from repro.data import Pair
from repro.judges import rubric
from repro.judges.rubric import Example, RubricJudge, grading_prompt
from repro.papers import collection, collection_prompts, collection_sweeps
from repro.papers.collection import Candidate, Graded, collect
from repro.papers.collection_answers import distinct, diversity_records, followed, overlap, presumption_records
from repro.papers.collection_prompts import keep_hard, pair_up, prompt_pool, with_gold
from repro.papers.collection_reviews import (
    Reviews,
    by_rubric,
    filter_pairs,
    label_pairs,
    level_of,
    mask_of,
    reviewed,
    scores_of,
)
from repro.papers.collection_rows import swapped
from repro.papers.collection_study import (
    JUDGED,
    KEPT_JUDGED,
    PEOPLE,
    STRONGER,
    CollectionStudy,
    beside,
    in_order,
    interval_of,
)
from repro.world import tasks
from repro.world.annotators import Human, Panel, panel
from repro.world.sources import annotators

SETTINGS = load("smoke", {"prompts": 60}, "p1_01_collection").section("p1_01_collection")
MASK = mask_of(SETTINGS.mask)
EXACT = Human(verbosity=0.0, temperature_inverse=np.inf, careless=0.0)


def candidate(sft, strong):
    return Candidate(prompt_pool(10, 0)[0], {}, (sft, strong))


def pair(place=0, chosen="yes", rejected="no", **extras):
    task = prompt_pool(40, 0)[place]
    return Pair(task.turns, chosen, rejected, "collected", {"task": task.row(), **extras})


# step 1


def test_equation_2_by_hand():
    """0.9 against 1.2 differ by 0.3; a difference of exactly epsilon is dropped, as the equation has it."""
    rows = [candidate(0.9, 1.2), candidate(1.0, 1.0), candidate(0.5, 0.0), candidate(float("nan"), 1.0)]
    kept, tally = keep_hard(rows, 0.0)
    assert kept == rows[:1]
    assert (tally.entered, tally.kept, tally.loss) == (4, 1, 0.75)
    assert tally.dropped == {collection_prompts.KEEPS_UP: 2, collection_prompts.NO_REWARD: 1}
    assert tally.cost == {"answers": 8, "proxy scores": 8}
    assert keep_hard([candidate(0.0, 0.5)], 0.5)[0] == [] != keep_hard([candidate(0.0, 0.5)], 0.4)[0]


def test_the_pool_is_balanced_different_and_seeded():
    asked = prompt_pool(57, 3)
    counts = {name: sum(task.category == name for task in asked) for name in tasks.CATEGORIES}
    assert set(counts.values()) == {5, 6} and len(asked) == len({task.turns for task in asked}) == 57
    assert asked == prompt_pool(57, 3) != prompt_pool(57, 4) and {task.split for task in asked} == {"train"}


# step 2


def answered_rows(count=60):
    writers = [(role, float(temperature)) for role, temperature in SETTINGS.writers]
    return [
        Candidate(task, {writer: f"answer of {writer}" for writer in writers}, (0.0, 1.0))
        for task in prompt_pool(count, 0)
    ]


def test_one_pair_a_prompt_the_stronger_role_first_and_each_draw_its_own():
    rows = answered_rows()
    pairs, tally = pair_up(rows, SETTINGS, 0)
    assert len(pairs) == tally.kept == len(rows) and tally.cost == {"answers": 2 * len(rows)}
    strength = {"small": 0, "large": 1, "strong": 2}
    couples = {tuple(each.extras["writers"]) for each in pairs}
    assert len(couples) == 5  # of four writers, two small ones: 6 couples less the one of equal roles
    assert all(strength[a.split(",")[0]] > strength[b.split(",")[0]] for a, b in couples)
    assert pair_up(rows[::2], SETTINGS, 0)[0] == pairs[::2]  # whatever else is asked
    with pytest.raises(SettingsError, match="stronger"):
        pair_up(rows, load("smoke", {"writers": [["small", 1.0]]}, "p1_01_collection").section("p1_01_collection"), 0)
    with pytest.raises(SettingsError, match="no role"):
        pair_up(rows, load("smoke", {"writers": [["tiny", 1.0]]}, "p1_01_collection").section("p1_01_collection"), 0)


# step 3


def test_the_mask_keeps_what_the_text_leaves():
    kept = {(plus, minus) for plus, minus in np.argwhere(MASK) + 1}
    assert kept == {(a, b) for a in range(1, 6) for b in range(1, 6) if 1 <= abs(a - b) <= 3}
    for wrong in ([[1] * 5] * 5, [[0] * 5] * 4, [[0] * 4] * 5, [[2] * 5] * 5):
        with pytest.raises(SettingsError):
            mask_of(wrong)


def test_every_dropped_pair_has_its_reason_and_the_judge_turns():
    pairs = [pair(k) for k in range(9)] + [pair(9, "same", "same "), pair(10, "said", " ")]
    scores = [(5, 3), (2, 4), (3, 3), (5, 1), (1, 5), (None, 3), ("good", 3), (3, 7), (0, 3), (4, 2), (4, 2)]
    kept, tally = filter_pairs(pairs, scores, MASK)
    assert [each.prompt for each in kept] == [each.prompt for each in pairs[:2]]
    assert (kept[0].chosen, kept[0].extras["levels"]) == ("yes", [5, 3])
    assert (kept[1].chosen, kept[1].extras["levels"]) == ("no", [4, 2])  # the judge contradicts the presumption
    assert tally.dropped == {
        "equal scores": 1,
        "extreme": 2,
        "score missing": 1,
        "score does not parse": 1,
        "score out of range": 2,
        "identical answers": 1,
        "empty answer": 1,
    }
    assert tally.entered == tally.kept + sum(tally.dropped.values()) and tally.cost == {"judge calls": 18}
    only = np.zeros((5, 5), dtype=bool)
    assert filter_pairs(pairs[:1], scores[:1], only)[1].dropped == {"cell not kept": 1}


@pytest.mark.parametrize(
    ("score", "read"),
    [
        (3, 3),
        (3.0, 3),
        ("4", 4),
        (np.int64(5), 5),
        (np.float64("nan"), "score missing"),
        (None, "score missing"),
        (3.5, "score does not parse"),
        ("", "score does not parse"),
        ([3], "score does not parse"),
        (float("inf"), "score out of range"),
        (-1, "score out of range"),
        ("6", "score out of range"),
    ],
)
def test_a_score_is_a_level_or_says_why_not(score, read):
    assert level_of(score) == read


def test_a_turned_pair_turns_all_that_is_said_of_both():
    row = pair(gold=[1, 2], levels=[3, 1], writers=["a", "b"], labels=[1.0, 0.0])
    turned = swapped(row)
    assert (turned.chosen, turned.extras["gold"], turned.extras["labels"]) == ("no", [2, 1], [0.0, 1.0])
    assert swapped(turned) == row


# step 4


def test_what_people_say_by_hand():
    """Agreed and good, agreed against the judge, in doubt, agreed on an answer worth (0.8 + 1.1) / 2 < 1."""
    pairs = [pair(k, levels=[4, 2], gold=[2.0, 1.0], writers=["a", "b"]) for k in range(4)]
    reviews = Reviews(np.array([[1, 1], [0, 0], [1, 0], [1, 1.0]]), np.array([[1.5, 1], [1, 1], [2, 2], [0.8, 1.1]]))
    shown, kept, tally = label_pairs(pairs, reviews, 1.0)
    assert [each.extras["kept"] for each in shown] == [True, True, False, False]
    assert [each.extras["labels"] for each in shown] == reviews.labels.tolist()
    assert [each.chosen for each in shown] == ["yes"] * 4 and [each.chosen for each in kept] == ["yes", "no"]
    assert [each.extras["turned"] for each in kept] == [False, True] and kept[1].extras["labels"] == [1.0, 1.0]
    assert tally.dropped == {"doubt": 1, "quality": 1} and tally.cost == {"labels": 8}
    dropped = label_pairs(pairs, reviews, 1.0, "drop")[2].dropped
    assert dropped == {"doubt": 1, "quality": 1, "people contradict the judge": 1}
    with pytest.raises(SettingsError, match="no way"):
        label_pairs(pairs, reviews, 1.0, "keep")


@pytest.fixture(scope="module")
def written():
    """A right and a wrong answer to each prompt, the right one in front in every other pair."""
    rng, rows = np.random.default_rng(0), []
    for place, task in enumerate(prompt_pool(120, 1)):
        texts = [tasks.respond(task, rng), tasks.respond(task, rng, ["wrong", "curt"])]
        first, second = texts if place % 2 == 0 else texts[::-1]
        rows.append(Pair(task.turns, first, second, "collected", {"task": task.row(), "writers": ["a", "b"]}))
    graded = Graded.of(rows)
    return with_gold(rows, graded), graded


def test_people_without_noise_are_gold_and_agree(written):
    pairs, graded = written
    reviews = reviewed(pairs, graded, Panel((EXACT,) * 4), 3, 0)
    assert reviews.labels.shape == (120, 3)
    gold = np.array([each.extras["gold"] for each in pairs])
    assert (reviews.labels == (gold[:, :1] > gold[:, 1:])).all()
    assert reviews.worth == pytest.approx(np.repeat(gold.max(1, keepdims=True), 3, axis=1))


def test_reviewers_differ_from_each_other_and_a_label_is_the_pairs_own(written):
    pairs, graded = written
    people = Panel((replace(EXACT), replace(EXACT, verbosity=90.0), replace(EXACT, verbosity=-90.0)))
    three = reviewed(pairs, graded, people, 3, 0)
    words = np.array([[len(each.chosen.split()), len(each.rejected.split())] for each in pairs])
    apart = words[:, 0] != words[:, 1]
    assert (three.labels[apart].min(1) != three.labels[apart].max(1)).all()  # all three were asked
    crowd = annotators()["human"]
    whole, half = reviewed(pairs, graded, crowd, 2, 0), reviewed(pairs[::2], graded, crowd, 2, 0)
    assert (whole.labels[::2] == half.labels).all()
    assert (reviewed(pairs, graded, crowd, 3, 0).labels[:, :2] == whole.labels).all()
    assert (reviewed(pairs, graded, crowd, 2, 1).labels != whole.labels).any()
    with pytest.raises(SettingsError, match="13 reviewers"):
        reviewed(pairs, graded, crowd, 13, 0)


def test_carelessness_makes_doubt_and_errors(written):
    pairs, graded = written
    doubt = []
    for careless in (0.0, 0.9):
        labels = reviewed(pairs, graded, panel(careless=careless), 2, 0).labels
        doubt.append((labels[:, 0] != labels[:, 1]).mean())
    assert doubt[0] + 0.15 < doubt[1] < 0.65  # two coins differ half the time


# the whole


class Proxy:
    """Rewards by length: a stand-in that needs no training."""

    def pool_rewards(self, prompts, answers):
        return [np.array([len(text) for text in row], dtype=float) for row in answers]


@pytest.fixture(scope="module")
def study():
    """Two seeds, the writers' places taken by the world's own: small makes every second answer wrong, strong makes few."""

    def texts(writer, asked, world, settings, seed):
        faults = {"small": ("wrong", "curt"), "large": ("part",), "strong": ()}[writer[0]]
        rng = np.random.default_rng([seed, len(str(writer))])
        return [tasks.respond(task, rng, faults if rng.random() < 0.5 else ()) for task in asked]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(collection_prompts, "_texts", texts)
        patched.setattr(collection_prompts, "reward_model_of", lambda world, seed: Proxy())
        patched.setattr(collection, "_COLLECTIONS", {})
        world = load("smoke").section("world")
        made = CollectionStudy([collect(world, SETTINGS, seed) for seed in (0, 1)], (0, 1))
        assert collect(world, SETTINGS, 0) is made.collections[0]
        yield made, collection_sweeps.epsilon_records(world, SETTINGS, made)


def test_the_steps_hang_together(study):
    for made in study[0].collections:
        sizes = [len(rows) for rows in (made.pool, made.hard, made.candidates, made.filtered, made.labelled)]
        one, two, three, four = made.tallies
        assert sizes == [one.entered, one.kept, two.kept, three.kept, four.kept] and sizes[1] == three.entered
        for tally in made.tallies:
            assert tally.entered == tally.kept + sum(tally.dropped.values())
        assert made.retained == sizes[-1] / 60 and made.turned <= sizes[-1]
        assert {each.prompt for each in made.labelled} == {p.prompt for p in made.filtered if p.extras["kept"]}
        for each in made.filtered:
            assert each.extras["levels"][0] > each.extras["levels"][1] and len(each.extras["labels"]) == 2
        assert all(each.extras["labels"] == [1.0, 1.0] for each in made.labelled)


def test_the_funnel_is_the_tallies(study):
    found, made = study[0].funnel(), study[0].collections
    kept = [sum(each.tallies[step].kept for each in made) for step in range(4)]
    assert found["step1_loss"].value == pytest.approx(1 - kept[0] / 120)
    assert found["step3_loss"].value == pytest.approx(1 - kept[2] / kept[1])
    assert found["step4_loss"].value == pytest.approx(1 - kept[3] / kept[2])
    assert found["retained"].value == pytest.approx(kept[3] / 120)
    assert set(study[0].evidence()) == {"retained", "step1_loss", "step3_loss", "step4_loss"}
    assert study[0].matrix().sum() == sum(sum(score[0] is not None for score in each.scores) for each in made)


def test_the_published_funnel_beside_ours(study):
    """What remains after step 3 is what the losses leave: 0.9 * 0.4 of the prompts."""
    panels = beside(study[0], inventory.published("p1.fig3"))
    paper = [r.value for rows in panels.values() for r in rows if r.row == "published"]
    assert paper == pytest.approx([10, 60, 50, 90, 36, 20])
    ours = [r.value for r in panels["left of the prompts"] if r.row == "ours"]
    assert ours == sorted(ours, reverse=True) and len(ours) == 3
    assert ours[-1] == pytest.approx(study[0].evidence()["retained"].value)


def test_a_gain_is_the_difference_of_the_shares(study):
    found = study[0]
    for before, after in ((STRONGER, JUDGED), (JUDGED, PEOPLE), (JUDGED, KEPT_JUDGED)):
        gain = found.gain(before, after)
        assert gain.value == pytest.approx(found.quality(after).value - found.quality(before).value)
        assert gain.low < gain.value < gain.high


def test_sweeps_pass_through_the_default_and_move_as_they_must(study):
    made, by_epsilon = study
    found = {(r.row, r.column): r.value for r in by_epsilon}
    assert found["retained", "epsilon = 0"] == pytest.approx(100 * made.funnel()["retained"].value)
    lost = [found["lost at step 1", f"epsilon = {each:g}"] for each in SETTINGS.epsilons]
    assert lost == sorted(lost) and lost[0] < lost[-1]
    masked = {(r.row, r.column): r.value for r in collection_sweeps.mask_records(SETTINGS, made)}
    assert masked["the text's", "retained"] == pytest.approx(100 * made.funnel()["retained"].value)
    assert masked["also 5-1 and 1-5", "lost at step 3"] <= masked["the text's", "lost at step 3"]
    assert masked["apart by 1", "lost at step 3"] > masked["apart by 1 or 2", "lost at step 3"]
    noise = {(r.row, r.column): r.value for r in collection_sweeps.noise_records(SETTINGS, made)}
    assert noise["retained", "reviewers = 2"] == pytest.approx(100 * made.funnel()["retained"].value)
    assert noise["lost at step 4", "reviewers = 1"] < noise["lost at step 4", "reviewers = 4"]
    assert noise["lost at step 4", "carelessness = 0"] < noise["lost at step 4", "carelessness = 0.6"]
    assert 0 < collection_sweeps.epsilon_for(made, 0.9)


def test_records_have_ids_rows_and_no_repeats(study):
    made = study[0]
    rows = made.funnel_records() + made.tally_records() + made.reason_records() + made.quality_records()
    rows += diversity_records(made) + presumption_records(made)
    assert len({(r.id, r.row, r.column) for r in rows}) == len(rows)
    assert {r.id for r in rows} == {
        "p1.fig3",
        "p1_01.cost",
        "p1_01.reasons",
        "p1_01.quality",
        "p1_01.diversity",
        "p1_01.presumption",
    }


def test_a_row_is_followed_from_its_prompt_to_gold(study):
    first = study[0].collections[0]
    said = followed(first)
    assert first.labelled[0].chosen in said.values() and len(said) == 9
    assert followed(replace(first, labelled=[])) == {}


def test_small_measures_by_hand():
    """Two of four different words are shared; of (a b), (b c), (a b) two differ; one in order, one not, one a tie."""
    assert overlap(["a", "b", "c"], ["b", "c", "d"]) == 0.5 and overlap([], []) == 1
    assert distinct([["a", "b", "c"], ["a", "b", "c"]], 3).tolist() == [2 / 3]
    assert distinct([["a", "b", "c"], ["a", "b", "c"]], 2).tolist() == [1, 1]
    assert np.isnan(distinct([["a"]], 1)).all()
    assert in_order([pair(gold=[2, 1]), pair(gold=[1, 2]), pair(gold=[1, 1])]).tolist() == [1, 0, 0.5]
    assert interval_of([np.array([1.0, 0.0]), np.array([1.0])]).value == pytest.approx(2 / 3)
    assert np.isnan(interval_of([np.array([])]).value)


# the judge's prompt


def test_the_grading_prompt_holds_the_categorys_rubric_and_examples():
    text = grading_prompt("sums")
    assert rubric.RUBRICS["sums"] in text and "31 plus 67 is 88." in text and "[[2]]" in text
    assert text.index("31 plus 67") < text.index("{prompt}") < text.index("{answer}")
    assert rubric.RUBRICS["other"] in grading_prompt("poems") and "Chess" in grading_prompt("poems")
    assert set(tasks.CATEGORIES) <= set(rubric.RUBRICS) and len(set(rubric.RUBRICS.values())) == len(rubric.RUBRICS)
    assert "Examples" not in grading_prompt("sums", examples={})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rubrics": {}}, "there is none"),
        ({"examples": {"sums": [Example("a", "b", "c", 6)]}}, "level 6"),
        ({"examples": {"sums": [Example("a", "say {prompt}", "c", 5)]}}, "holds {prompt}"),
        ({"rubrics": {"sums": "from {low}"}}, "holds {low}"),
    ],
)
def test_a_rubric_that_would_break_the_prompt_is_refused(options, says):
    with pytest.raises(SettingsError, match=says):
        grading_prompt("sums", **options)


class Server:
    """An endpoint that grades by the rubric it is shown, and answers one of them without a grade."""

    model = "stand-in"

    def __init__(self):
        self.asked = []

    def ask(self, requests, *, repeat=0):
        texts = [request["messages"][0]["content"] for request in requests]
        self.asked += texts
        marks = ["no idea" if "never" in t else "[[5]]" if "every step" in t else "[[2]]" for t in texts]
        return [type("Answer", (), {"text": mark, "top": None})() for mark in marks]


def test_a_language_model_grades_each_answer_by_its_own_category():
    server = Server()
    judge = RubricJudge(server)
    prompts = [(("user", "What is 1 plus {answer}?"),), (("user", "Name a ball."),), (("user", "What is 2?"),)]
    found = judge.score(["sums", "lists", "sums"], prompts, ["2", "golf", "never"])
    assert found[:2].tolist() == [5, 2] and np.isnan(found[2])
    assert "1 plus {answer}?" in server.asked[0] and "from 1 to 5" in server.asked[0]


def test_the_filter_takes_a_language_model_in_the_judges_place(written):
    pairs, graded = written
    scores = scores_of(pairs, graded, by_rubric(RubricJudge(Server())))
    assert {score for both in scores for score in both} <= {2.0, 5.0}
    assert filter_pairs(pairs, scores, MASK)[1].dropped["equal scores"] == len(pairs)
    blank = replace(pairs[0], rejected="")
    assert scores_of([blank], graded) == [(None, None)]
