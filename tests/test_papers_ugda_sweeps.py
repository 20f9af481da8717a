"""UGDA's settings one by one: shares and thresholds by hand, who gets as many labels, other numbers of members, what methods cost."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from repro.core import artifacts
from repro.core.artifacts import MANIFEST
from repro.papers import miniature, ugda, ugda_measures, ugda_sweeps
from repro.papers.ugda import Interactions, collect, refinement, select
from repro.papers.ugda_methods import CONTROLS, METHODS, Method, budget
from repro.papers.ugda_sweeps import AT_RANDOM, CHOSEN, ETA, GAMMA, LABELS, MEMBERS, UNREFINED, Point, Sweeps, at_budget
from repro.train.ensemble import RewardEnsemble
from tests import online_loop
from tests.test_papers_ugda import SETTINGS as SMALL
from tests.test_papers_ugda import TASKS, WORLD

OWN = {"gamma": 0.5, "eta": 0.5, "members": 2}
SWEPT = {"sweep_gammas": [0.25, 0.5], "sweep_etas": [0.75], "sweep_members": [1, 2], "sweep_budgets": [0.0, 0.125, 1.0]}
SETTINGS = SMALL.pick(*(key for key in SMALL if key not in SWEPT), **SWEPT)


class TestPoints:
    def test_thresholds_by_hand(self):
        """1 - sqrt(1/8) twice leaves an eighth; a fourth is the paper's own point; none and all leave no choice."""
        point = at_budget(0.125, "both", OWN)
        assert point.gamma == point.eta == pytest.approx(0.6464, abs=1e-4)
        assert point.over(SETTINGS).annotated_share == pytest.approx(0.125)
        assert at_budget(0.25, "both", OWN) == Point(Method(), **OWN)
        assert at_budget(0.0, "both", OWN) == at_budget(0.0, "random", OWN) == Point(Method("none"), **OWN)
        assert at_budget(1.0, "both", OWN) == at_budget(1.0, "random", OWN) == Point(Method("all"), **OWN)

    def test_one_setting_moves_at_a_time(self):
        plan = ugda_sweeps.plan(SETTINGS)
        assert len(plan) == 2 * (2 + 1 + 2 + 3)
        assert plan[GAMMA, 0.25, CHOSEN] == Point(Method(), 0.25, 0.5, 2)
        assert plan[ETA, 0.75, AT_RANDOM] == Point(Method("random"), 0.5, 0.75, 2)
        assert plan[MEMBERS, 1, CHOSEN].members == 1 and plan[MEMBERS, 2, CHOSEN] == plan[GAMMA, 0.5, CHOSEN]
        changed = {key for key, value in plan[GAMMA, 0.25, CHOSEN].over(SETTINGS).items() if value != SETTINGS[key]}
        assert changed == {"gamma", "annotated_share"}

    @pytest.mark.parametrize("count", [24, 37])
    def test_both_selectors_label_as_many_at_every_point(self, count, monkeypatch):
        rng = np.random.default_rng(0)
        found = Interactions(
            None, None, None, TASKS[:1] * count, ["Sure."] * count, rng.normal(size=(2, count)), np.zeros(count)
        )
        monkeypatch.setattr(ugda, "influence_of", lambda *_: rng.normal(size=(count, 2)))
        plan, sizes = ugda_sweeps.plan(SETTINGS), {}
        for (what, value, name), point in plan.items():
            if point.method.selection != "none":
                sizes.setdefault((what, value), {})[name] = len(
                    select(point.method, found, WORLD, point.over(SETTINGS), 0).places
                )
        assert all(each[CHOSEN] == each[AT_RANDOM] for each in sizes.values())
        assert sizes[LABELS, 100.0][CHOSEN] == count and sizes[LABELS, 12.5][CHOSEN] == pytest.approx(
            count / 8, abs=1.5
        )
        assert sizes[GAMMA, 0.5][CHOSEN] == budget(count, SETTINGS)


def sweeps_of(values):
    """Accuracy in percent of two prompts by point; all others 50."""
    points = [
        *ugda_sweeps.plan(SETTINGS).values(),
        *ugda_sweeps.relabelling(SETTINGS).values(),
        Point(Method("none"), 0.5, 0.5, 1),
    ]
    return Sweeps({point: np.full((1, 2), values.get(point, 50.0)) for point in points}, SETTINGS, (0,))


class TestRecords:
    def test_gains_are_over_the_random_draw_and_over_the_same_members_unrefined(self):
        plan = ugda_sweeps.plan(SETTINGS)
        found = sweeps_of(
            {
                plan[MEMBERS, 1, CHOSEN]: 70.0,
                plan[MEMBERS, 1, AT_RANDOM]: 64.0,
                Point(Method("none"), 0.5, 0.5, 1): 60.0,
            }
        )
        rows = {(row.row, row.column): row.value for row in found.difference_records()}
        assert rows["members = 1", "points over random"] == 6 and rows["members = 1", "points over no refinement"] == 10
        assert rows["members = 1", "labels (%)"] == 25 and rows["eta = 0.75", "labels (%)"] == 12.5
        assert "labels (%) = 0" not in {row for row, _ in rows} and rows["gamma = 0.25", "points over random"] == 0

    def test_a_curve_has_both_selectors_and_one_column_a_value(self):
        rows = sweeps_of({}).curve(LABELS)
        assert [(row.row, row.column) for row in rows][:3] == [
            (CHOSEN, f"labels (%) = {each}") for each in ("0", "12.5", "100")
        ]
        assert {row.row for row in rows} == {CHOSEN, AT_RANDOM} and {row.n for row in rows} == {2}

    def test_relabelling_stands_beside_no_refinement(self):
        points = ugda_sweeps.relabelling(SETTINGS)
        assert next(iter(points)) == UNREFINED and len(points) == 5
        rows = sweeps_of({points[UNREFINED]: 40.0}).relabelling_records()
        assert {row.value for row in rows if row.column == "points over no refinement"} == {10} and len(rows) == 9

    def test_gold_by_labels_by_hand(self):
        values = {
            (0.0, CHOSEN): 1.0,
            (0.0, AT_RANDOM): 1.0,
            (25.0, CHOSEN): 1.5,
            (25.0, AT_RANDOM): 1.2,
            (100.0, CHOSEN): 2.0,
            (100.0, AT_RANDOM): 2.0,
        }
        gold = {key: np.full((2, 3), value) for key, value in values.items()}
        rows = {(row.row, row.column): round(row.value, 9) for row in ugda_sweeps.budget_gain_records(gold, (0, 1))}
        assert rows == {
            ("labels (%) = 25", f"{CHOSEN} over none"): 0.5, ("labels (%) = 25", f"{AT_RANDOM} over none"): 0.2,
            ("labels (%) = 25", "UGDA's over random"): 0.3, ("labels (%) = 100", f"{CHOSEN} over none"): 1.0,
            ("labels (%) = 100", f"{AT_RANDOM} over none"): 1.0,
        }  # fmt: skip
        assert ugda_sweeps.labels_gain(gold).value == 1 and len(ugda_sweeps.budget_records(gold, (0, 1))) == 6


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What was collected with two members, on a policy of random weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_RUNS", str(tmp_path_factory.mktemp("sweeps")))
        patch.setenv("REPRO_BATCH", "1")
        for module in (miniature, ugda, ugda_measures):
            patch.setattr(module, "policy", online_loop.first)
        yield collect(WORLD, SETTINGS, 0)


def telling_seven(*_):
    """Influence that was computed in seven seconds."""
    artifacts.HISTORY.append({"seconds": 7.0})


class TestOnSamples:
    def test_fewer_members_are_the_first_and_more_read_the_same_texts(self, found):
        one = ugda_sweeps.rescored(found, WORLD, Point(Method(), 0.5, 0.5, 1).over(SETTINGS), 0)
        assert (
            one.texts == found.texts
            and np.array_equal(one.rewards, found.rewards[:1])
            and one.ensemble.path != found.ensemble.path
        )
        three = ugda_sweeps.rescored(found, WORLD, Point(Method(), 0.5, 0.5, 3).over(SETTINGS), 0)
        scorer = RewardEnsemble(found.ensemble, ugda.chapter_settings(WORLD, SETTINGS))
        two = scorer.member_rewards([task.turns for task in found.tasks], [[text] for text in found.texts])[..., 0]
        assert np.allclose(three.rewards[:2], two, atol=1e-4) and not np.allclose(three.rewards[2], two[0], atol=1e-2)

    def test_the_point_says_which_ensemble_is_measured(self, found, monkeypatch):
        """On the collecting policy's answers: its own without refinement, another after it; helpful and harmless in a row."""
        asked, values = [], {"helpful": np.array([0.5, np.nan]), "harmless": np.array([1.0])}
        monkeypatch.setattr(ugda_sweeps, "accuracy", lambda *call: asked.append(call[:2]) or values)
        points = [Point(Method("none"), **OWN), Point(Method("random"), **OWN)]
        found_values = [ugda_sweeps.refined_accuracy(point, found, WORLD, SETTINGS, 0) for point in points]
        assert np.array_equal(found_values, [[50, np.nan, 100]] * 2, equal_nan=True)
        assert [ensemble.path == found.ensemble.path for ensemble, _ in asked] == [True, False]
        assert all(writer.path == found.run.path for _, writer in asked)

    def test_costs_are_counted_as_if_nothing_was_shared(self, found, monkeypatch):
        monkeypatch.setattr(ugda_sweeps, "influence_of", telling_seven)
        drawn = refinement(METHODS["UGDA(RA)"], found, WORLD, SETTINGS, 0)
        done = {"PPO": refinement(METHODS["PPO"], found, WORLD, SETTINGS, 0), "UGDA(RA)": drawn}
        done |= {name: replace(drawn, method=METHODS[name]) for name in ("UGDA", "own labels")}
        rows = {name: ugda_sweeps.method_cost(found, each, WORLD, SETTINGS, 0) for name, each in done.items()}
        size, once = budget(len(found), SETTINGS), SETTINGS.ppo_iterations
        counts = {"PPO": [0, once], "UGDA(RA)": [size, 2 * once], "UGDA": [size, 2 * once], "own labels": [0, 2 * once]}
        assert {name: row[:2] for name, row in rows.items()} == counts
        collecting, members = found.run.manifest["seconds"], ugda_sweeps.seconds_of(found.ensemble.path)
        assert rows["PPO"][2:] == [members, 0, 0, 0, collecting]
        assert rows["UGDA(RA)"][2:5] == [members, collecting, 0] and rows["UGDA"][4] == 7 and rows["UGDA"][5] > 0
        study = SimpleNamespace(outcomes=[done], found=[found], seeds=(0,))
        header, lines = ugda_sweeps.cost_grid(study, WORLD, SETTINGS)
        assert [len(line) for line in lines] == [len(header)] * 4 and lines[1][:3] == [
            "UGDA(RA)",
            str(size),
            str(2 * once),
        ]


def test_members_seconds_are_added_and_what_a_rescaling_rescales(tmp_path):
    def made(name, step, seconds, **inputs):
        (tmp_path / name).mkdir()
        known = {key: {"path": str(tmp_path / each)} for key, each in inputs.items()}
        (tmp_path / name / MANIFEST).write_text(json.dumps({"step": step, "seconds": seconds, "from": known}))

    for name, seconds in (("a", 2.0), ("b", 3.0), ("data", 50.0), ("said", 0.25)):
        made(name, "train.refine.refine_member", seconds)
    made("first", "train.ensemble.ensemble", 0.5, member_0="a", member_1="b", reference="data")
    made("refined", "train.refine.refined", 1.0, member_0="a", ensemble="first")
    made("whole", "train.refine.rescaled", 4.0, ensemble="refined", rewards="said", model="data")
    found = [ugda_sweeps.seconds_of(tmp_path / name) for name in ("first", "refined", "whole")]
    assert found == [5.5, 3.0, 7.25]


def test_controls_are_points_too():
    points = ugda_sweeps.relabelling(SETTINGS)
    assert points["random selection, ensemble mean"].method == CONTROLS["own labels"]
