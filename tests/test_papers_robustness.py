"""Under flipped preferences: losses and labels by hand, what is paired, what is found and what is new; bad input."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import spearmanr

from repro.core import inventory
from repro.core.errors import SettingsError
from repro.core.settings import load
from repro.core.statistics import mean_interval
from repro.papers import robustness, ugda_methods
from repro.papers import robustness_records as shown
from repro.papers.robustness import (
    BEFORE,
    CLEAN,
    COMPARED,
    FLIPPED,
    LEFT,
    OFF,
    ON,
    RLR,
    TURNED,
    UGDA,
    Labels,
    Robustness,
)
from repro.papers.ugda_judged import Judged
from repro.papers.ugda_measures import PolicyMeasure, rank_error
from repro.papers.ugda_prompts import preferences
from repro.papers.ugda_study import OTHERS, SFT, Study
from tests.test_papers_ugda import SETTINGS, WORLD, interactions

OWN = load("smoke").section("p3_04_robustness")
SUBTASKS = np.array(["helpful"] * 3 + ["harmless"] * 3)


def measure(gold):
    """Six prompts, two answers each, all of this gold and what each prompt adds to it."""
    values = np.repeat((gold + np.arange(6.0))[:, None], 2, 1)
    return PolicyMeasure(values, values, values * 0, SUBTASKS)


def arm(gold, seeds=2):
    """A study whose methods have this gold above SFT's, in every seed."""
    measures = {SFT: [measure(0.0)] * seeds} | {name: [measure(value)] * seeds for name, value in gold.items()}
    outcomes = [{name: SimpleNamespace(labels=3) for name in gold}] * seeds
    return Study(tuple(range(seeds)), [None] * seeds, outcomes, measures)


def both(clean, flipped, seeds=2, **parts):
    labels = Labels(np.array([[1.0, -1.0, 0.0, 2.0]] * seeds), np.array([[True, False, True, False]] * seeds))
    given = {"ordered": {}, "doubt": {}, "groups": {}, **parts}
    return Robustness({CLEAN: arm(clean, seeds), FLIPPED: arm(flipped, seeds)}, labels, **given)


@pytest.fixture
def found():
    """Clean, all stand at 2; flipped, PPO loses 1, UGDA a fourth, the others a half."""
    flipped = dict.fromkeys(COMPARED, 1.5) | {"PPO": 1.0, UGDA: 1.75}
    return both(dict.fromkeys(COMPARED, 2.0), flipped)


class TestLosses:
    def test_ugda_loses_least_and_the_terms_are_the_inventorys(self, found):
        """1/4 less 1 for PPO, 1/4 less 1/2 for the others: all below 0, as the rule has it."""
        evidence = found.evidence()
        assert set(evidence) == set(inventory.claims()["p3.c6"]["courts"]["world"])
        assert evidence.pop("loss_against_ppo").value == -0.75
        assert {each.value for each in evidence.values()} == {-0.25}
        assert all(each.high < 0 for each in evidence.values())

    def test_a_loss_is_clean_less_flipped_and_sft_has_none(self, found):
        assert found.loss("PPO").value == found.loss("PPO", "helpful").value == 1
        assert found.loss(SFT).value == 0 and found.loss("PPO").n == 6 and found.loss("PPO", "harmless").n == 3

    def test_what_the_prompts_share_is_no_noise(self, found):
        """Gold differs by prompt from 0 to 5, but the same in all policies: paired, nothing of it is left."""
        assert found.loss_against(UGDA, "PPO").half_width == pytest.approx(0)
        assert found.arms[CLEAN].reward("PPO").half_width > 0.5

    def test_records_are_of_both_arms_and_every_method(self, found):
        gains = {(row.row, row.column): row.value for row in shown.gain_records(found)}
        assert gains["PPO", "above SFT, clean"] == 2 and gains["PPO", "above SFT, flipped"] == 1
        losses = {(row.row, row.column): row.value for row in shown.loss_records(found)}
        assert losses[UGDA, "loss, both"] == 0.25 and len(losses) == 3 * len(COMPARED)
        table = shown.table_records(found)
        assert {row.id for row in table} == {"p3.table3"} and {row.row for row in table} == {SFT, *COMPARED}
        helpful = {row.row: row.value for row in table if row.column == "helpful Avg_Reward"}
        assert helpful[SFT] == 1 and helpful["PPO"] == 2  # the flipped arm's

    def test_the_seeds_that_a_contrast_needs(self, found):
        """Two seeds of equal contrast have no spread: two suffice. One seed's spread is its prompts', here none either."""
        rows = {(row.row, row.column): row.value for row in shown.power_records(found, 0.1)}
        assert rows["PPO", "difference"] == -0.75 and rows["PPO", "SD of one seed's"] == 0
        assert rows["PPO", "#seeds for as seen"] == rows["PPO", "#seeds for 0.1"] == 2

    def test_the_spread_of_one_seed_and_of_several(self, monkeypatch):
        """Contrasts 1, 3 by seed: SD sqrt(2). One seed's 1, 2, 3 by prompt: 1 / sqrt(3) of its mean."""
        lost = np.array([[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]])
        for each, deviation in ((lost, np.sqrt(2)), (lost[:1], 1 / np.sqrt(3))):
            one = both(dict.fromkeys(COMPARED, 0.0), dict.fromkeys(COMPARED, 0.0), len(each))
            monkeypatch.setattr(Robustness, "lost", lambda _, name, each=each: each if name == UGDA else each * 0)
            rows = {(row.row, row.column): row.value for row in shown.power_records(one, 0.1)}
            assert rows["RLR", "SD of one seed's"] == pytest.approx(deviation)


class TestLabels:
    def test_wrong_labels_by_hand(self, found):
        """Margins 1, -1, 0, 2: one of three is wrong. The first turned: two of three; the turned tie says nothing."""
        assert found.labels.wrong(CLEAN).value == pytest.approx(100 / 3)
        assert found.labels.wrong(FLIPPED).value == pytest.approx(200 / 3)
        rows = {(row.row, row.column): row.value for row in shown.label_records(found)}
        assert rows[FLIPPED, "gold is level"] == rows[CLEAN, "gold is level"] == 25

    def test_blind_flips_leave_a_share_of_the_signal(self):
        """30% wrong and 20% turned: .3 + .2 (1 - .6) = 38% wrong."""
        places = np.arange(100)[None]
        labels = Labels(np.where(places < 30, -1.0, 1.0), places % 5 == 0)
        assert labels.wrong(CLEAN).value == 30 and labels.wrong(FLIPPED).value == pytest.approx(38)

    def test_the_arms_differ_in_the_turned_pairs_alone(self):
        turned = SETTINGS.pick(*SETTINGS, flip_share=OWN.flip_share)
        sets = [[preferences(each, seed) for seed in (0, 1)] for each in (SETTINGS, turned)]
        labels = robustness.labels_of(*sets)
        assert labels.turned.sum(1).tolist() == [round(0.2 * SETTINGS.preference_pairs)] * 2
        assert labels.turned[0].tolist() != labels.turned[1].tolist()
        chosen, rejected = sets[0][0][0].extras["gold"]
        assert labels.margins[0, 0] == pytest.approx(chosen - rejected)
        with pytest.raises(SettingsError, match="both arms learn the same pairs"):
            robustness.labels_of(sets[0], sets[0])

    def test_a_turned_pair_is_shown_with_both_answers(self):
        text = shown.shown(SETTINGS, OWN, 0)
        chosen, rejected = list(text)[1:]
        assert "chosen by people" in chosen and "rejected by people" in rejected and text[chosen] != text[rejected]


class TestSideBySide:
    def test_each_seeds_own_rows_are_counted_once(self):
        """Rows 1, 2 of one seed and 6 of another: mean 3 of three rows, not of six."""
        rows = robustness.apart([np.array([1.0, 2.0]), np.array([6.0])])
        assert rows.shape == (2, 3) and np.isnan(rows).sum() == 3
        interval = mean_interval(rows)
        assert interval.value == 3 and interval.n == 3

    def test_doubt_is_spearmans(self, monkeypatch):
        rng = np.random.default_rng(0)
        samples, gold = interactions(rng.normal(size=(3, 40))), rng.normal(size=(40, 1))
        monkeypatch.setattr(robustness, "graded", lambda *_: gold)
        errors = rank_error(samples.rewards.mean(0), gold[:, 0])
        expected = spearmanr(samples.rewards.var(0), errors).statistic
        assert robustness.doubt_of(samples).mean() == pytest.approx(expected)

    def test_gains_in_order_are_paired(self):
        """Half of the turned pairs in order, then all: 50 points; where gold is level there is nothing to order."""
        before, after = np.array([[0.0, 1.0, np.nan]]), np.array([[1.0, 1.0, np.nan]])
        ordered = {(FLIPPED, name): {TURNED: each} for name, each in ((BEFORE, before), (UGDA, after))}
        found = both({}, {}, 1, ordered=ordered)
        gain = found.order_gain((FLIPPED, UGDA), (FLIPPED, BEFORE), TURNED)
        assert gain.value == 50 and gain.n == 2 and found.order((FLIPPED, BEFORE), TURNED).value == 50


def test_leads_by_hand_and_their_change():
    """Level 4 against 3 leads by 100; flipped, 3 against 3 on one prompt and 2 against 3 on the other: -50, so 150 less."""
    levels = {name: np.array([[[3], [3]]]) for name in OTHERS}
    verdicts = {
        CLEAN: Judged(levels | {UGDA: np.array([[[4], [4]]])}, (0,)),
        FLIPPED: Judged(levels | {UGDA: np.array([[[3], [2]]])}, (0,)),
    }
    rows = {(row.row, row.column): row.value for row in shown.lead_records(verdicts)}
    assert [rows["PPO", column] for column in (CLEAN, FLIPPED, "change")] == [100, -50, -150]
    assert {row for row, _ in rows} == set(OTHERS)


class Scorer:
    """Every member rewards an answer by its gold, or against it where the ensemble is called wrong."""

    def __init__(self, name, _):
        self.sign = -1 if "wrong" in name else 1

    def member_rewards(self, prompts, texts):
        worth = {pair.chosen: pair.extras["gold"][0] for pair in PAIRS}
        worth |= {pair.rejected: pair.extras["gold"][1] for pair in PAIRS}
        return self.sign * np.array([[[worth[text] for text in row] for row in texts]] * 2)


PAIRS = preferences(SETTINGS, 0) + preferences(SETTINGS, 1)  # of both seeds


@pytest.fixture
def arms(monkeypatch):
    """Both arms with studies and reward models that are none, and what the studies were asked."""
    asked = []

    def fake(methods, world, settings, seeds):
        asked.append((methods, settings, tuple(seeds)))
        wrong = "wrong" if settings.flip_share else "right"
        outcomes = {"PPO": f"{wrong} before", "RLR": "right RLR", UGDA: "right UGDA"}
        made = {name: SimpleNamespace(ensemble=each) for name, each in outcomes.items()}
        run = SimpleNamespace(sft="SFT", run=wrong, tasks=[SimpleNamespace(turns=("a", "b"))] * 3)
        return Study(tuple(seeds), [run] * len(seeds), [made] * len(seeds), {})

    def order(model, writer, *_):
        value = float(model.startswith(writer))  # of its own arm's answers, not of SFT's
        return {"helpful": np.full(3, value), "harmless": np.full(2, 0.5)}

    monkeypatch.setattr(robustness, "study", fake)
    monkeypatch.setattr(robustness, "accuracy", order)
    monkeypatch.setattr(robustness, "RewardEnsemble", Scorer)
    monkeypatch.setattr(robustness, "doubt_of", lambda found: np.arange(3.0))
    found = robustness.robustness(WORLD.pick(*WORLD, workers=1), SETTINGS, OWN, [0, 1])
    return found, asked


class TestBothArms:
    def test_the_clean_arm_is_the_other_chapters_and_the_flipped_one_differs_in_one_setting(self, arms):
        """The same methods by the same settings: every stage is found, for it is named by what it is given."""
        (methods, clean, seeds), (others, flipped, again) = arms[1]
        assert clean == SETTINGS and seeds == again == (0, 1) and methods == others
        assert {name: ugda_methods.METHODS[name] for name in methods} == methods
        assert {key for key in clean if clean[key] != flipped[key]} == {"flip_share"} and flipped.flip_share == 0.2

    def test_every_ensemble_orders_gold_of_both_policies_answers_and_of_both_kinds_of_pairs(self, arms):
        """One that ranks against gold has no pair in order, flipped or not; labels do not enter, gold does."""
        found = arms[0]
        assert list(found.ordered) == [(arm, name) for arm in (CLEAN, FLIPPED) for name in (BEFORE, RLR, UGDA)]
        count = round(OWN.flip_share * len(PAIRS))
        for who, share in (((CLEAN, BEFORE), 100), ((FLIPPED, BEFORE), 0), ((FLIPPED, UGDA), 100)):
            assert [found.order(who, column).value for column in (TURNED, LEFT)] == [share, share]
            assert found.ordered[who][TURNED].shape == found.ordered[who][LEFT].shape == (2, count)
        assert found.order((FLIPPED, BEFORE), ON).value == 80 and found.order((FLIPPED, BEFORE), OFF).value == 20

    def test_doubt_is_over_prompts(self, arms):
        doubted = arms[0].doubted(FLIPPED)
        assert doubted.value == 1 and doubted.n == 2  # three samples of one prompt in each seed

    def test_the_page_cites_what_the_equation_predicts(self, arms):
        """e + f - 2 e f of the people's own share of wrong labels and the share that was turned."""
        found = arms[0]
        found.arms.update({CLEAN: arm(dict.fromkeys(COMPARED, 2.0)), FLIPPED: arm(dict.fromkeys(COMPARED, 1.0))})
        said = shown.numbers(found)
        wrong, share = said["wrong_clean"].value, 100 * found.labels.turned.mean()
        assert float(said["predicted"]) == pytest.approx(wrong + share - 2 * wrong * share / 100, abs=0.05)
        assert said["repair_turned"].value == 100 and said["damage"].value == 0 and said["ugda_loss"].value == 1
