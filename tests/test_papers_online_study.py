"""What the chapter reports, from made-up runs whose answers are known: signs, pairings, arms and means."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from repro.core.artifacts import Artifact
from repro.core.settings import load
from repro.core.statistics import Interval
from repro.papers import online_study
from repro.papers.online_arms import ITERATIVE, OFFLINE, ONE_BATCH, SFT, Measured, Run, Tuning
from repro.papers.online_rlhf import BEST_RANDOM, BEST_WORST, GENERATING, SCORING, TRAINING
from repro.papers.online_study import EXPLORATIONS, Study, variants

PROMPTS, SEEDS = 30, (0, 1)
SETTINGS = load("smoke").section("p2_04_online_dpo")


def said(gold, kl=0.0, characters=80.0):
    """A policy of this gold, a little different by prompt; KL that every answer shows alike."""
    each = np.linspace(-0.1, 0.1, PROMPTS)[:, None] * np.ones((1, 2))
    same = np.ones((PROMPTS, 2))
    return Measured(gold + each, 2 * gold + each, kl * same, characters * same, 50 + 10 * gold * same)


def pair(place, turned=False):
    sides = ["good", "bad"][:: -1 if turned else 1]
    return SimpleNamespace(prompt=(("user", f"Question {place}?"),), chosen=sides[0], rejected=sides[1])


def iteration(folder, loss, pairs, dropped):
    folder.mkdir()
    record = {"pairs": pairs, "loss": [9.0] * 19 + [loss], "margin": [0.0] * 19 + [0.5]}
    (folder / "history.json").write_text(json.dumps(record))
    seconds = {GENERATING: 3.0, SCORING: 2.0, TRAINING: 4.0}
    tasks, made = [None] * (pairs + dropped), Artifact(folder, "dpo", "key", "digest", {"seconds": 4.0})
    return SimpleNamespace(
        history=record, dropped=dropped, tasks=tasks, pairs=[*map(pair, range(pairs))], seconds=seconds, policy=made
    )


@pytest.fixture
def study(tmp_path):
    """The loop gains 0.3 and 0.5 at KL 1 and 4; best against random 0.4 in the end, the penalty 0.2 and its raw order 0.1."""
    done = [iteration(tmp_path / str(place), 0.6 - 0.1 * place, 9 - place, 1 + place) for place in range(2)]
    gold = dict.fromkeys(variants(SETTINGS), 0.5) | {BEST_RANDOM: 0.4, "penalty": 0.2, "penalty, raw order": 0.1}
    runs = {
        name: [Run([*done], [said(0.3, 1.0), said(last, 4.0, 100 * last)]) for _ in SEEDS]
        for name, last in gold.items()
    }
    turned = SimpleNamespace(**vars(done[0]) | {"pairs": [pair(place, turned=place < 3) for place in range(9)]})
    for run in runs["penalty, raw order"]:
        run.iterations[:] = [turned, done[1]]
    wins = {
        arm: {rate: Interval(value, value, value, 9) for rate, value in ((1e-4, 51.0), (3e-4, 60.0))}
        for arm in (ITERATIVE, OFFLINE, ONE_BATCH)
    }
    offline = {rate: [said(worth, kl) for _ in SEEDS] for rate, worth, kl in ((1e-4, 0.1, 1.0), (3e-4, 0.2, 4.0))}
    batch = {rate: [Run(done[:1], [said(0.3, 1.0)]) for _ in SEEDS] for rate in (1e-4, 3e-4)}
    return Study(Tuning(wins), runs, [said(0.0) for _ in SEEDS], offline, batch, [done[0].policy], SEEDS)


def by_place(rows):
    return {(row.row, row.column): row for row in rows}


def test_policies_are_at_their_own_rates(study):
    rows = by_place(online_study.iterate_records(study))
    found = [rows[name, "gold"].value for name in (SFT, "iteration 1", "iteration 2", OFFLINE, ONE_BATCH)]
    assert found == pytest.approx([0, 0.3, 0.5, 0.2, 0.3])
    assert rows["iteration 2", "KL"].value == pytest.approx(4) and rows[SFT, "win rate"].value == pytest.approx(50)
    assert rows[SFT, "gold"].n == PROMPTS and rows[SFT, "gold"].seed == "0,1"


def test_the_claims_gain_is_best_worst_less_best_random(study):
    assert study.gold_gain().value == pytest.approx(0.1)
    rows = by_place(online_study.exploration_records(study))
    assert {row for row, _ in rows} == set(EXPLORATIONS)
    assert rows[BEST_RANDOM, "gold, iteration 2"].value == pytest.approx(0.4) and rows[BEST_WORST, "pairs"].value == 17


def test_discrepancies_are_the_released_code_less_what_it_departs_from(study):
    rows = by_place(online_study.discrepancy_records(study))
    assert rows["penalty picks, raw reward orders", "gold (difference)"].value == pytest.approx(
        -0.1
    )  # against the penalty
    assert rows["penalty picks, raw reward orders", "characters (difference)"].value == pytest.approx(-10)
    assert rows["reference is the previous iterate", "gold (difference)"].value == pytest.approx(0)
    found = [rows[name, "other pairs at first (%)"].value for name in online_study.RELEASED]
    assert found == pytest.approx([0, 0, 0, 100 / 3])


def test_equal_kl_is_where_both_have_been(study):
    rows = by_place(online_study.matched_records(study))
    assert rows["against offline DPO", "sqrt(KL)"].value == pytest.approx(2)
    assert rows["against offline DPO", "difference"].value == pytest.approx(0.3)
    assert rows["against one batch", "sqrt(KL)"].value == pytest.approx(1)
    assert rows["against one batch", "difference"].value == pytest.approx(0)
    assert [distance for distance, _ in online_study.distance_points(study.curves()[OFFLINE])] == pytest.approx(
        [0, 1, 2]
    )


def test_training_ends_with_its_last_tenth_and_counts_what_was_dropped(study):
    rows = by_place(online_study.training_records(study))
    assert rows["iteration 1", "loss"].value == pytest.approx((9 + 0.6) / 2)
    assert [rows[f"iteration {place}", "dropped (%)"].value for place in (1, 2)] == pytest.approx([10, 20])
    assert rows["iteration 2", "pairs"].value == 8 and rows["iteration 1", "generating (s)"].value == 3
    assert rows[OFFLINE, "training (s)"].value == 4 and (OFFLINE, "dropped (%)") not in rows
