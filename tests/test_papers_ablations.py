"""The ablations: lambda by its rule, what a sweep varies, the loss and the time by hand, labels that differ in bias alone."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from repro.core import inventory
from repro.core.errors import DataError
from repro.core.settings import Section, load
from repro.papers import ablation_records, ablations, court
from repro.papers.ablations import BETA, BIASED, CONCISE, EPOCHS, OURS, PENALTY, RESTART, N, Study
from repro.papers.chat_benchmarks import Scores
from repro.papers.online_arms import SFT, Measured, Run, one_batch
from repro.papers.online_rlhf import Iteration, Recipe

RECIPE = Recipe(None, n=8, beta=0.1, iterations=3, prompts_per_iteration=2, learning_rate=1e-3)
RULE = Section({"penalty": None, "penalty_share": 0.5})


def iteration(texts, rewards):
    return Iteration(1, None, [], texts, np.array(rewards, dtype=float), [], 0, {})


def test_lambda_by_its_rule_and_as_set():
    """Two answers a prompt: lengths 10 and 30 (SD 10), 20 and 20 (0); rewards 0 and 4 (SD 2), 1 and 1: .5 x sqrt(2) / sqrt(50)."""
    first = iteration([["a" * 10, "b" * 30], ["c" * 20, "d" * 20]], [[0, 4], [1, 1]])
    assert ablations.length_penalty(first, RULE) == pytest.approx(0.5 * math.sqrt(2) / math.sqrt(50))
    assert ablations.length_penalty(first, Section({"penalty": 0.001, "penalty_share": 0.5})) == 0.001
    with pytest.raises(DataError, match="equally long"):
        ablations.length_penalty(iteration([["aa", "bb"]], [[0, 4]]), RULE)


def test_a_sweep_varies_one_thing_in_one_batch():
    found = load("laptop")
    online, settings = found.section("p2_04_online_dpo"), found.section("p2_06_ablations")
    plans = ablations.sweep_plans([RECIPE], [0.02], online, settings)
    plain = one_batch(RECIPE)
    assert {name for name, _ in plans} == {PENALTY, BETA, N, EPOCHS}
    for (name, value), ((recipe,), section) in plans.items():
        changed = {PENALTY: {"penalty": 0.02 * value}, BETA: {"beta": value}, N: {"n": value}}.get(name, {})
        assert recipe == replace(plain, **changed)
        assert section.epochs == (value if name == EPOCHS else online.epochs)
        assert {key: section[key] for key in section if key != "epochs"} == {
            k: online[k] for k in online if k != "epochs"
        }
    for name, value in ((PENALTY, 0.0), (BETA, online.beta), (N, online.n), (EPOCHS, online.epochs)):
        assert plans[name, value][0] == [plain]  # what every sweep shares with the others


def test_the_loss_of_a_pair_by_hand():
    """Policy is the reference: log 2. Chosen gained 2 nats and rejected lost 3: log(1 + e^-.5)."""
    found = ablations.pair_losses(np.array([0.0, 2.0]), np.array([0.0, -3.0]), 0.1)
    assert found == pytest.approx([math.log(2), math.log(1 + math.exp(-0.5))])


def test_biased_labels_are_of_the_same_pairs():
    """The usual labels and those of people who like length: the same prompts and answers in the same order."""
    plain = ablations.miniature.pairs(ablations.MIX, 300, 0)
    biased = court.labelled_by(court.dialled(ablations.constants.STRONG_VERBOSITY), 300, 0, ablations.MIX)
    both = [[(pair.prompt, frozenset((pair.chosen, pair.rejected))) for pair in pairs] for pairs in (plain, biased)]
    assert both[0] == both[1]
    longer = [np.mean([len(pair.chosen) > len(pair.rejected) for pair in pairs]) for pairs in (plain, biased)]
    assert longer[1] > longer[0] + 0.05


def test_time_is_what_passed_and_its_interval_is_the_paces():
    """Equal pace: 3 iterations against 1 + 2 + 3 take 50 percent, without error; a slow machine in one training is error."""
    pairs, theirs = np.array([[10.0, 10, 10]]), np.array([[10.0, 20, 30]])
    even = ablation_records.time_ratio(pairs / 5, pairs, theirs / 5, theirs)
    assert (even.value, even.low, even.high) == pytest.approx((50, 50, 50))
    uneven = ablation_records.time_ratio(np.array([[2.0, 4, 2]]), pairs, theirs / 5, theirs)
    assert uneven.value == pytest.approx(100 * 8 / 12) and uneven.low < 55 and uneven.high > 75


def test_a_restart_is_timed_on_all_pairs_so_far():
    new = [["a", "b"], ["c"], ["d"]]
    sizes = {OURS: [2, 1, 1], RESTART: [2, 3, 4]}
    runs = {
        name: Run([SimpleNamespace(pairs=p, history={"pairs": n}) for p, n in zip(new, each, strict=True)], [])
        for name, each in sizes.items()
    }
    assert ablations.trained_on(runs[OURS]) == new
    assert ablations.trained_on(runs[RESTART]) == [["a", "b"], ["a", "b", "c"], ["a", "b", "c", "d"]]


@pytest.fixture
def study():
    """Every variant one point above the one before in everything; characters 10 apart."""
    names = (SFT, OURS, CONCISE, BIASED)
    matrix = {name: np.zeros((1, 5)) + k for k, name in enumerate(names)}
    kinds = [
        f"{kind}, {column}" for kind in ("chat", "hard") for column in ("win rate", "length-controlled", "characters")
    ]
    one = Measured(*(np.arange(10.0).reshape(5, 2) for _ in range(5)))
    made = SimpleNamespace(history={"pairs": 4, "loss": [0.7, 0.6, 0.5, 0.3]})
    run = Run([made], [one])
    return Study(
        {OURS: [run], CONCISE: [run], BIASED: [run], RESTART: [run]},
        {(PENALTY, 0.0): [run], (PENALTY, 1.0): [run]},
        {OURS: np.array([[1.0]]), RESTART: np.array([[2.0]])},
        {OURS: [one], BIASED: [one]},
        [0.01],
        {OURS: np.array([[0.5, np.nan, 0.4]]), BIASED: np.array([[0.3, 0.2, np.nan]])},
        Scores(dict.fromkeys(kinds, matrix), (0,)),
        Scores(dict.fromkeys(ablation_records.SETS, matrix), (0,)),
        (0,),
    )


def test_the_claims_meet_the_inventorys_terms_and_signs(study):
    found = ablation_records.evidence(study)
    for id, terms in found.items():
        assert set(terms) == set(inventory.claims()[id]["courts"]["world"])
    assert found["p2.c7"]["length_change"].value == found["p2.c8"]["raw_win_change"].value == 1  # concise less ours
    assert found["p2.c9"]["lc_win_change"].value == 2  # biased less ours
    assert found["p2.c10"]["loss_change"].value == pytest.approx(-0.2)  # the one prompt that both have a pair of
    assert found["p2.c11"]["win_rate_change"].value == 0 and found["p2.c11"]["time_ratio"].value == 50


def test_records_are_table_4s_and_curves_begin_where_nothing_moved(study):
    columns = {row.column for row in ablation_records.table_records(study)}
    assert columns == set(next(iter(inventory.published("p2.table4").values())))
    rows = ablation_records.overfitting_records(study)
    assert {row.column for row in rows} == {"iteration = 1"} and all(row.value == 0 for row in rows)
    losses = {(row.row, row.column): row.value for row in ablation_records.loss_records(study, 2)}
    assert losses[OURS, "iteration = 1"] == pytest.approx(0.4) and losses[OURS, "after training"] == pytest.approx(0.45)
    assert [row.column for row in ablation_records.sweep_curve(study, PENALTY, "gold")] == [
        "penalty = 0",
        "penalty = 1",
    ]
