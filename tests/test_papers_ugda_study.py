"""UGDA's study by hand: means and variances of gold, paired gains, a ratio of variances, checks, PPO's course, seeds needed."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from repro.core import inventory
from repro.core.errors import DataError
from repro.core.statistics import Interval
from repro.objectives.selection import Selection
from repro.papers import ugda_prompts, ugda_records, ugda_study
from repro.papers.experts import OWN
from repro.papers.ugda import Interactions, Outcome
from repro.papers.ugda_measures import PolicyMeasure, SelectionCheck
from repro.papers.ugda_methods import METHODS, PPO, VARIANTS, Method
from repro.papers.ugda_records import seeds_needed, spread
from repro.papers.ugda_study import SFT, Study, evidence
from repro.world import sources

ASKED = {category for categories in ugda_prompts.SUBTASKS.values() for category in categories}
TASKS = [task for task in sources.prompts(60, "train", 0) if task.category in ASKED][:12]
SUBTASKS = np.array(["helpful"] * 3 + ["harmless"] * 3)
GOLD = np.array([[1.0, 3.0], [2.0, 2.0], [0.0, 4.0], [5.0, 5.0], [6.0, 8.0], [6.0, 6.0]])
SAMPLES = 12


def measure(gold, log_ratio=0.5):
    gold = np.asarray(gold, dtype=float)
    return PolicyMeasure(gold, np.zeros(gold.shape), np.full(gold.shape, log_ratio), SUBTASKS)


def interactions(seed=0):
    rng = np.random.default_rng(seed)
    texts = ["Sure." + " Happy to help." * (place % 3) for place in range(SAMPLES)]
    return Interactions(None, None, None, TASKS, texts, rng.normal(size=(3, SAMPLES)), np.repeat([0, 4, 8], 4))


def outcome(name, seed=0):
    """What a method relabelled: the places of its own, two labels; the policy that collected has three iterations."""
    method = METHODS[name]
    if method.selection == "none":
        return SimpleNamespace(method=method, ensemble=None, labels=0, history={"kl": [0.0, 0.2, 0.4]}, selection=None)
    places = np.array([seed, seed + 3])
    return Outcome(method, None, None, Selection(places, np.zeros(SAMPLES)), np.array([2, 5]))


def study_of(measures, seeds=(0,)):
    """measures: by name, gold of one seed (prompts, answers) or PolicyMeasures of all."""
    made = {name: each if isinstance(each, list) else [measure(each)] * len(seeds) for name, each in measures.items()}
    outcomes = [{name: outcome(name, seed) for name in METHODS} for seed in seeds]
    return Study(tuple(seeds), [interactions(seed) for seed in seeds], outcomes, made)


EVERY = study_of({name: GOLD + place for place, name in enumerate([SFT, *METHODS])})


class TestStudy:
    def test_means_of_prompts_helpful_ones_first(self):
        found = study_of({SFT: GOLD[::-1]})
        shuffled = [PolicyMeasure(GOLD[::-1], GOLD, GOLD, SUBTASKS[::-1])]
        assert found.gold(SFT).tolist() == [[6, 7, 5, 2, 2, 2]] and found.gold(SFT, "harmless").tolist() == [[2, 2, 2]]
        assert study_of({SFT: shuffled}).gold(SFT).tolist() == [[2, 2, 2, 6, 7, 5]]
        assert found.reward(SFT, "helpful").value == 6 and found.reward(SFT).value == 4 and found.reward(SFT).n == 6
        with pytest.raises(DataError, match="no policy 'XPO'"):
            found.gold("XPO")

    def test_var_reward_is_the_variance_over_all_answers(self):
        """Helpful 1 3 2 2 0 4 about 2: 10 / 6; harmless 5 5 6 8 6 6 about 6: 6 / 6; both: their mean."""
        found = study_of({SFT: GOLD})
        assert found.variance(SFT, "helpful").value == pytest.approx(10 / 6)
        assert found.variance(SFT, "harmless").value == pytest.approx(GOLD[3:].var()) == pytest.approx(1)
        assert found.variance(SFT).value == pytest.approx((10 / 6 + 1) / 2)
        assert found.variance(SFT, "helpful").value == pytest.approx(measure(GOLD).variance("helpful").value)

    def test_a_seeds_own_mean_is_no_variance(self):
        """Two seeds whose answers differ by a constant: the variance is that of either."""
        found = study_of({SFT: [measure(GOLD), measure(GOLD + 9)]}, (0, 1))
        assert found.variance(SFT, "helpful").value == pytest.approx(10 / 6) and found.gold(SFT).shape == (2, 6)

    def test_gains_are_paired(self):
        found = study_of({SFT: GOLD, PPO: GOLD + 0.5})
        gain = found.gain(PPO, SFT)
        assert (gain.value, gain.low, gain.high) == (0.5, 0.5, 0.5)
        assert found.gain(SFT, PPO, "harmless").value == -0.5

    def test_the_ratio_to_the_lowest_variance(self):
        """Twice the deviations of the lowest are four times its variance, whichever prompts are drawn."""
        wide = study_of({"UGDA": 2 * GOLD, PPO: GOLD, "LCB": 3 * GOLD})
        ratio = wide.variance_percent("UGDA", [PPO, "LCB"])
        assert [ratio.value, ratio.low, ratio.high] == pytest.approx([400, 400, 400])
        assert wide.variance_percent(PPO, ["LCB"]).value == pytest.approx(100 / 9)
        constant = study_of({"UGDA": GOLD, PPO: np.full(GOLD.shape, 0.45), "LCB": GOLD})
        assert np.isnan(constant.variance_percent("UGDA", [PPO, "LCB"]).value)

    def test_its_interval_is_that_of_resampling(self):
        rng = np.random.default_rng(0)
        one, other = (rng.normal(size=(200, 4)) * scale for scale in (1.0, 1.2))
        halves = np.array(["helpful", "harmless"] * 100)
        measures = {n: [PolicyMeasure(g, g, g, halves)] for n, g in (("UGDA", one), (PPO, other))}
        ratio = study_of(measures).variance_percent("UGDA", [PPO])
        draws = []
        for _ in range(500):
            picks = [rng.choice(np.flatnonzero(halves == part), 100) for part in ("helpful", "harmless")]
            parts = [np.mean([each[pick].var() for pick in picks]) for each in (one, other)]
            draws.append(100 * parts[0] / parts[1])
        assert ratio.high - ratio.low == pytest.approx(np.quantile(draws, 0.975) - np.quantile(draws, 0.025), rel=0.2)

    def test_evidence_has_the_terms_of_the_rules(self):
        found = evidence(EVERY)
        assert set(found) == {f"p3.c{number}" for number in range(1, 6)}
        for claim, terms in found.items():
            assert set(terms) == set(inventory.entry(claim)["courts"]["world"])
        place = {name: k for k, name in enumerate([SFT, *METHODS])}
        assert (
            found["p3.c1"]["lcb"].value == place["LCB"]
            and found["p3.c2"]["over_rlr"].value == place["UGDA"] - place["RLR"]
        )
        assert found["p3.c4"]["rlr_over_ppo"].value == place["RLR"] - place[PPO]
        assert (
            found["p3.c5"]["over_gradient_only"].value == 1
            and found["p3.c3"]["percent_of_lowest_variance"].value == 100
        )

    def test_every_method_of_every_seed_is_measured_and_sft_once(self, monkeypatch):
        def run(methods, world, settings, seed):
            return SimpleNamespace(sft="sft"), {n: SimpleNamespace(policy=(n, seed), ensemble=seed) for n in methods}

        asked = []
        monkeypatch.setattr(ugda_study, "run_methods", run)
        monkeypatch.setattr(ugda_study, "test_prompts", lambda settings: [])
        monkeypatch.setattr(ugda_study, "measured", lambda *call: asked.append((call[0], call[4])) or call[0])
        methods = {name: Method() for name in "ab"}
        found = ugda_study.study(methods, SimpleNamespace(workers=1), None, [3, 5])
        assert found.measures == {SFT: ["sft", "sft"], "a": [("a", 3), ("a", 5)], "b": [("b", 3), ("b", 5)]}
        assert asked.count(("sft", None)) == 1 and ((("b", 5), 5) in asked) and len(asked) == 5
        with pytest.raises(DataError, match="no seed"):
            ugda_study.study(methods, None, None, [])


class TestRecords:
    def test_table_2_has_labels_rewards_and_kl(self):
        rows = {(row.row, row.column): row for row in ugda_records.table_records(EVERY)}
        assert [row for row, column in rows if column == "KL"] == list(ugda_records.TABLE)
        assert rows["UGDA", "#labels"].value == 2 and rows[PPO, "#labels"].value == rows[SFT, "#labels"].value == 0
        assert rows[SFT, "harmless Avg_Reward"].value == 6 and rows[SFT, "harmless Var_Reward"].value == pytest.approx(
            1
        )
        assert rows["RLR", "KL"].value == 0.5 and len(rows) == 6 * len(ugda_records.TABLE)

    def test_no_finished_answer_has_no_kl(self):
        cut = {name: [measure(GOLD, np.nan)] for name in [SFT, *METHODS]}
        rows = [row for row in ugda_records.table_records(study_of(cut)) if row.column == "KL"]
        assert {row.value for row in rows} == {None}

    def test_the_ablation_is_ugda_less_each_variant(self):
        rows = {(row.row, row.column): row.value for row in ugda_records.ablation_records(EVERY)}
        assert rows["UGDA less UGDA(RA)", "both"] == 3 and rows["UGDA less UGDA(GR)", "harmless"] == 1
        assert rows["UGDA", "both"] == EVERY.reward("UGDA").value and len(rows) == 3 * (4 + 3)

    def test_gains_of_both_and_of_each(self):
        rows = ugda_records.gain_records("p3_03.gains", EVERY, ["UGDA"], SFT)
        assert (
            {row.row for row in rows} == {"UGDA less SFT"}
            and [row.column for row in rows] == ["both", "helpful", "harmless"]
            and {row.value for row in rows} == {10}
        )

    def test_what_was_selected(self):
        rows = {(row.row, row.column): row for row in ugda_records.selected_records(EVERY)}
        rewards = EVERY.found[0].rewards
        assert rows["all collected", "members' SD"].value == pytest.approx(rewards.std(0).mean())
        assert (
            rows["UGDA", "members' SD"].value == pytest.approx(rewards.std(0)[[0, 3]].mean())
            and rows["UGDA", "rank error"].n == 2
        )
        assert {row for row, _ in rows} == {"all collected", *VARIANTS}

    def test_correlations_of_one_seed_and_of_several(self):
        """One seed: over prompts; several: their mean and Student's t, .3 and .32 about .31, and never beyond 1."""
        checks = [
            SelectionCheck(*[Interval(value, value - 0.1, value + 0.1, 9)] * 4, None, None)
            for value in (0.3, 0.32, -0.9)
        ]
        one, both, wide = (ugda_records.check_records(checks[:k], range(k))[0] for k in (1, 2, 3))
        assert (one.value, one.low, one.n) == (0.3, pytest.approx(0.2), 9)
        assert both.value == pytest.approx(0.31) and both.n == 9
        assert both.high - both.low == pytest.approx(2 * 12.7 * 0.01, rel=0.1)
        assert wide.low == -1 and wide.high == 1
        nothing = SelectionCheck(*[Interval(np.nan, np.nan, np.nan, 9)] * 4, None, None)
        assert ugda_records.check_records([nothing, nothing], [0, 1])[0].value is None

    def test_ppos_course_by_iteration(self):
        rows = {(row.row, row.column): row for row in ugda_records.course_records(EVERY)}
        run = EVERY.found[0]
        assert rows["proxy", "iteration = 2"].value == pytest.approx(run.rewards.mean(0)[4:8].mean())
        assert rows["characters", "iteration = 1"].value == np.mean([len(text) for text in run.texts[:4]])
        assert rows["KL", "iteration = 3"].value == 0.4 and rows["KL", "iteration = 3"].low is None
        assert {column for _, column in rows} == {f"iteration = {k}" for k in (1, 2, 3)}

    def test_a_relabelled_sample_is_shown_with_its_targets(self):
        shown = ugda_records.sample(EVERY)
        run = EVERY.found[0]
        smallest = np.sort(run.rewards[0])[4]  # level 2 of twelve rewards: the fifth smallest, 40% rounded up
        assert any(f"judge's level 2, on the members' scales {smallest:+.2f}" in head for head in shown)
        assert list(shown.values()) == [run.tasks[0].turns[-1][1], run.texts[0]]

    def test_controls_say_gold_and_accuracy(self, monkeypatch):
        """Half of a helpful prompt's pairs in order, all of a harmless one's; a prompt of equal answers has none."""
        halves = {"helpful": np.array([0.5, np.nan]), "harmless": np.array([1.0, np.nan])}
        monkeypatch.setattr(ugda_records, "accuracy", lambda *_: halves)
        monkeypatch.setattr(ugda_records, "test_prompts", lambda settings: [])
        monkeypatch.setattr(ugda_records, "widths", lambda *_: 0.7)
        monkeypatch.setattr(ugda_records, "_pay", lambda *_: 0.5)
        rows = {(row.row, row.column): row for row in ugda_records.control_records(EVERY, None, None)}
        narrow = {name for name, column in rows if column == "SD left"}
        assert narrow == set(ugda_records.CONTROLLED) - {"RLR, not rescaled", "UGDA, not rescaled"}
        assert rows["own labels", "PPO's answers (%)"].value == 75 and rows[PPO, "SFT's answers (%)"].n == 2
        assert rows["all labelled", "gold over PPO"].value == 11 and (PPO, "gold over PPO") not in rows
        monkeypatch.setattr(ugda_records, "accuracy", lambda *_: {name: np.array([np.nan]) for name in halves})
        again = ugda_records.control_records(EVERY, None, None)
        assert next(row for row in again if row.column == "SFT's answers (%)").value is None

    def test_widths_compare_a_refined_ensemble_with_its_own_first_one(self, tmp_path):
        """SDs 1 and 4 become 0.5 and 1: a half and a quarter of before, 0.375 on average."""
        for name, sds in (("first", [1.0, 4.0]), ("refined", [0.5, 1.0])):
            (tmp_path / name).mkdir()
            (tmp_path / name / "ensemble.json").write_text(json.dumps({"sd": sds}))
        done = {name: SimpleNamespace(method=METHODS[name], ensemble=tmp_path / "refined") for name in METHODS}
        found = SimpleNamespace(found=[SimpleNamespace(ensemble=tmp_path / "first")], outcomes=[done])
        assert ugda_records.widths(found, "RLR") == 0.375
        assert np.isnan(ugda_records.widths(found, "RLR, not rescaled"))

    def test_own_labels_cost_none(self):
        assert Outcome(METHODS["own labels"], None, None, None, np.array([1, 2])).labels == 0
        assert METHODS["own labels"].expert == OWN


class TestSeedsNeeded:
    @pytest.mark.parametrize(("effect", "seeds"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
    def test_published_sizes_of_a_paired_t_test(self, effect, seeds):
        """Cohen's table and G*Power 3.1: two-sided at 5%, power 80%."""
        assert seeds_needed(1.0, effect) == seeds == seeds_needed(0.07, -0.07 * effect)

    def test_limits(self):
        assert seeds_needed(0.0, 0.1) == 2 and seeds_needed(0.1, 0.0) is None and seeds_needed(0.0, 0.0) is None
        assert seeds_needed(1.0, 0.05) is None and seeds_needed(1.0, 20.0) == 2
        assert seeds_needed(1.0, 0.5, power=0.9) > seeds_needed(1.0, 0.5)
        with pytest.raises(DataError, match="deviation -1"):
            seeds_needed(-1.0, 0.1)

    def test_so_many_seeds_find_it_four_times_in_five(self):
        """Drawn, not computed: deviation 1 about 1, Student's t of nine degrees of freedom."""
        count = seeds_needed(1.0, 1.0)
        drawn = np.random.default_rng(0).normal(1, 1, (8000, count))
        t = drawn.mean(1) / (drawn.std(1, ddof=1) / np.sqrt(count))
        assert count == 10 and 0.79 < (abs(t) > 2.262).mean() < 0.82

    def test_the_spread_is_that_of_seeds_where_there_are_several(self):
        """Seeds' mean differences 1 and 3: an SD of the square root of 2. One seed: SD over prompts by their root."""
        several = study_of({SFT: GOLD, PPO: [measure(GOLD + 1), measure(GOLD + 3)]}, (0, 1))
        assert spread(several, PPO, SFT).value == pytest.approx(2**0.5) and spread(several, PPO, SFT).between == "seeds"
        one = study_of({SFT: np.zeros((6, 2)), PPO: GOLD})
        assert spread(one, PPO, SFT).value == pytest.approx(GOLD.mean(1).std(ddof=1) / 6**0.5)
        assert spread(one, PPO, SFT).between == "prompts"

    def test_every_contrast_has_its_seeds(self):
        rows = {(row.row, row.column): row.value for row in ugda_records.power_records(EVERY, 0.1)}
        assert rows["UGDA less PPO", "difference"] == 9 and rows["UGDA less PPO", "#seeds for 0.1"] == 2
        assert len(rows) == 4 * len(ugda_records.CONTRASTS) == 4 * 13
