"""The world's reward-model study: its arithmetic by hand, and every model trained, judged and recorded on random weights."""

import numpy as np
import pytest

from repro.core import artifacts, inventory
from repro.core.settings import Section, load
from repro.data import miniature as sets
from repro.models.scratch import scratch
from repro.papers import miniature, world_length_bias, world_reward_models
from repro.papers.world_length_bias import GOLD, NULL, WorldLengthStudy
from repro.papers.world_reward_models import (
    BT_MIX1,
    BT_MIX2,
    LONGER,
    PM_MIX2,
    PROMPTED,
    RANDOM,
    SHUFFLED,
    TRAINED,
    Study,
    study,
)
from repro.train.pairwise import PreferenceModel

SECTIONS = ("Chat", "Chat Hard", "Safety", "Reasoning")
TINY = {"world.reward_pairs": 24, "world.pm_packing_block": 512, "world.workers": 1}
TINY |= {"p2_02_reward_models.benchmark_items": 1, "p2_02_reward_models.held_pairs": 6}
TINY |= {"p2_03_length_bias.world_prompts": 4, "p2_03_length_bias.world_answers": 3, "world.max_new_tokens": 8}


def rows():
    """Two items a section, of one subset each."""
    return [
        {"section": name, "subset": f"{name}-x", "prompt": (("user", "q"),), "chosen": "a", "rejected": "b"}
        for name in SECTIONS
        for _ in "12"
    ]


def by_hand(**outcomes):
    """Outcomes of the eight items by model, the same for two seeds."""
    found = {name: np.array([values, values], dtype=float) for name, values in outcomes.items()}
    return Study(found, rows(), {}, {}, {}, (0, 1))


@pytest.fixture
def random_policy(tmp_path, monkeypatch):
    """Policies of random weights in place of trained ones, at the smoke tier's sizes and below."""
    monkeypatch.setenv("REPRO_RUNS", str(tmp_path))

    def policy(role, settings):
        texts = artifacts.external(sets.lexicon() / sets.TEXTS)
        return artifacts.run(scratch, settings={"name": settings[role]}, inputs={"texts": texts}, seed=0)

    monkeypatch.setattr(sets, "LEXICON", 300)
    for module in (world_reward_models, miniature):
        monkeypatch.setattr(module, "policy", policy)
    return load("smoke", TINY)


def test_intervals_gains_and_the_overall_score_by_hand():
    found = by_hand(**{BT_MIX2: [1, 1, 1, 0, 0, 0, 1, 0.5], PROMPTED: [0, 1, 0, 0, 1, 1, 0.5, 0.5]})
    assert [found.interval(BT_MIX2, name).value for name in SECTIONS] == pytest.approx([100, 50, 0, 75])
    assert found.overall(BT_MIX2) == pytest.approx((100 + 50 + 0 + 75) / 4)
    assert [found.gain(BT_MIX2, PROMPTED, name).value for name in SECTIONS] == pytest.approx([50, 50, -100, 25])
    assert found.interval(BT_MIX2, "Safety-x").value == 0


def test_the_evidence_is_what_the_rules_ask_for():
    """Terms as in the inventory; c1 against prompting, c2 preference less BT on mix2, c3 BT on mix2 less on mix1."""
    half, one = [0.5] * 8, [1.0] * 8
    found = by_hand(**{PROMPTED: [0] * 8, BT_MIX1: half, BT_MIX2: one, PM_MIX2: half})
    for claim in ("p2.c1", "p2.c2", "p2.c3"):
        assert set(found.evidence(claim)) == set(inventory.entry(claim)["courts"]["world"])
    assert {value.value for name, value in found.evidence("p2.c1").items() if name.startswith("bt")} == {100}
    assert {value.value for name, value in found.evidence("p2.c1").items() if name.startswith("pm")} == {50}
    assert {value.value for value in found.evidence("p2.c2").values()} == {-50}
    assert {value.value for value in found.evidence("p2.c3").values()} == {50}


def test_a_probability_of_one_half_scores_half(monkeypatch):
    monkeypatch.setattr(PreferenceModel, "probabilities", lambda self, rows: np.array([0.5, 0.51, 0.2]))
    found = world_reward_models.outcomes(PreferenceModel(None, Section({})), [])
    assert found.tolist() == [0.5, 1, 0]


def test_every_model_is_trained_and_judged_on_the_same_items(random_policy):
    world, own = (random_policy.section(name) for name in ("world", "p2_02_reward_models"))
    found = study(world, own, (0, 1))
    assert set(found.benchmark) == {PROMPTED, *TRAINED, LONGER}
    assert {values.shape for values in found.benchmark.values()} == {(2, len(found.rows))}
    assert {values.shape for by in found.held.values() for values in by.values()} == {(2, 6)}
    longer = [0.5 + 0.5 * np.sign(len(row["chosen"]) - len(row["rejected"])) for row in found.rows]
    assert found.benchmark[LONGER][1].tolist() == longer
    assert np.array_equal(*found.benchmark[PROMPTED])
    table = found.records()
    assert {row.id for row in table} == {"p2.table1"} and {row.column for row in table} == set(SECTIONS)
    assert {row.row for row in table} == {PROMPTED, *TRAINED, LONGER, RANDOM}
    assert {row.seed for row in table if row.row in TRAINED} == {"0,1"}
    assert {row.seed for row in table if row.row == PROMPTED} == {"0"}
    assert set(world_reward_models.PUBLISHED) < set(found.benchmark)
    assert set(world_reward_models.PUBLISHED.values()) == set(inventory.published("p2.table1"))
    assert {row.column for row in found.held_records()} == {"mix1", "mix2"}
    for name in (PM_MIX2, BT_MIX2):
        record = found.models[name][0].history
        loss = record["loss"] if isinstance(record, dict) else record.loss
        assert len(loss) and np.isfinite(loss).all()
    seen = world_reward_models.shown(found.models[PM_MIX2][0], world, world_reward_models.compared(found.rows)[0])
    assert seen["labels"] == ["One", "Two"] and 0 <= seen["probability"] <= 1
    assert seen["texts"]["as shown"] != seen["texts"]["swapped"]


def test_shuffled_labels_are_other_labels_on_the_same_pairs(random_policy):
    world = random_policy.section("world")
    start, pairs = world_reward_models.policy("small", world), sets.pairs("mix2", 24, 0)
    calls = [world_reward_models.training(kind, pairs, world, 0, start) for kind in ("bt", "shuffled", "pm")]
    bt, shuffled, pm = ({name: made.digest for name, made in call["inputs"].items()} for call in calls)
    assert bt["pairs"] != shuffled["pairs"] and bt["model"] == shuffled["model"] == pm["base"]
    assert calls[0]["settings"] == calls[1]["settings"]
    assert calls[2]["settings"].sft_learning_rate == world.pm_learning_rate


def test_the_paper_tier_has_the_papers_preference_model():
    world, paper = load("paper").section("world"), inventory.entry("p2.pm")
    ours = [world.pm_epochs, world.pm_learning_rate, world.warmup_ratio, world.pm_batch_size, world.pm_packing_block]
    assert ours == [paper[name] for name in ("epochs", "lr", "warmup_ratio", "global_batch", "packing_block")]
    assert world.pm_template == "brackets"


def test_length_differences_are_paired_and_gold_has_no_seed():
    correlations = {BT_MIX1: np.array([[0.5, 0.3], [0.7, 0.5]]), BT_MIX2: np.array([[0.1, 0.1], [0.3, 0.1]])}
    correlations |= {GOLD: np.array([[0.1, 0.3]])}
    answers = miniature.Pool([None, None], None, np.zeros((2, 1)))
    found = WorldLengthStudy(correlations, {}, {}, answers, (0, 1))
    assert found.difference().value == pytest.approx(0.5 - 0.15)
    assert found.difference(BT_MIX1, GOLD).value == pytest.approx(0.5 - 0.2)
    assert set(found.evidence()) == set(inventory.entry("p2.c4")["courts"]["world"])
    assert {row.row: row.seed for row in found.records()}[GOLD] == "0"


def test_the_length_study_runs_on_a_policys_own_answers(random_policy):
    world, own = (random_policy.section(name) for name in ("world", "p2_03_length_bias"))
    found = world_length_bias.study(world, own, (0,))
    assert set(found.correlations) == {BT_MIX1, BT_MIX2, GOLD, NULL}
    assert found.correlations[BT_MIX1].shape == (1, len(found.answers.tasks)) and found.answers.gold.shape[1] == 3
    assert set(found.shares) == {BT_MIX1, BT_MIX2} and all(0 < share < 1 for share in found.shares.values())
    assert {task.split for task in found.answers.tasks} == {"test"}
    assert SHUFFLED not in found.correlations
