"""Best-of-n in the world: chances by hand, both estimators against plain counting, and a run on random weights."""

import itertools

import numpy as np
import pytest

from repro.core import artifacts, inventory
from repro.core.settings import load
from repro.data import miniature as sets
from repro.models.scratch import scratch
from repro.papers import filtered_models, miniature, world_best_of_n
from repro.papers.filtered_models import LARGE, MAIN, SMALL, STEP3, STEP4
from repro.papers.world_best_of_n import GOLD, JUDGE, LONGEST, RANDOM, WorldBestOfN, size_study
from repro.train.reward_tokens import TokenRewardModel, finetuning

TINY = {"world.workers": 1, "world.max_new_tokens": 8, "p1_03_best_of_n.world_answers": 6}
TINY |= {"p1_03_best_of_n.world_n": [2, 5], "p1_03_best_of_n.tasks_per_category": 1}


def pool(gold):
    """Answers worth so much, each of its own text and length."""
    gold = np.array(gold, dtype=float)
    texts = [[f"{k} {'x' * k}" for k in range(gold.shape[1])] for _ in gold]
    return miniature.Pool([None] * len(gold), type("Said", (), {"texts": texts})(), gold)


def test_contests_equal_counting_all_sets():
    """Every set of n of five answers: RM-Step4's pick against RM-Step3's on equal ground, level by level."""
    rng = np.random.default_rng(3)
    third, fourth, gold = rng.random((3, 1, 1, 5))
    level = np.array([[1.0, 3, 3, 5, 2]])
    found = size_study(pool(gold[0]), level, {STEP3: third, STEP4: fourth}, [2, 3], [1, 2])
    for place, n in enumerate((2, 3)):
        wins = []
        for members in itertools.combinations(range(5), n):
            picks = [max(members, key=lambda k, by=by: by[0, 0, k]) for by in (fourth, third)]
            wins.append(0.5 + 0.5 * np.sign(level[0, picks[0]] - level[0, picks[1]]))
        assert found.contests[JUDGE][0, 0, place] == pytest.approx(np.mean(wins))


def test_the_same_model_ties_with_itself_and_gold_beats_its_opposite():
    gold = np.arange(12.0).reshape(2, 6)
    same = size_study(pool(gold), gold, {STEP3: gold[None], STEP4: gold[None]}, [2, 6], [1, 6])
    assert same.contests[JUDGE] == pytest.approx(0.5) and same.same.mean() == 1
    best = size_study(pool(gold), gold, {STEP3: -gold[None], STEP4: gold[None]}, [2, 6], [1, 6])
    assert best.contests[GOLD] == pytest.approx(1.0) and best.same.mean() == 0
    assert best.gold[STEP4][0, :, 1] == pytest.approx(gold.max(1)) and best.gold[RANDOM][0, :, 0] == pytest.approx(gold.mean(1))


def test_proxy_and_gold_along_the_path_start_at_zero_and_the_kl_is_exact():
    """Two prompts of other means: what a prompt is worth by itself is no gain; two answers and n = 2 give .131 nats."""
    gold = np.array([[0.0, 1.0], [10.0, 11.0]])
    found = world_best_of_n._path(5 * gold[None], gold, [1, 2])
    assert found["kl"][0] == pytest.approx(np.array([[0, 0.1308], [0, 0.1308]]), abs=1e-4)
    for what in ("proxy", "gold"):
        assert found[what][0] == pytest.approx(np.array([[0, 0.5], [0, 0.5]]))  # (3/4 - 1/4) of an SD, which is half the gap


def made(values):
    """Both sizes with the same chances of every pick, (2 seeds, 3 prompts, 4 n), and no divergence."""
    wins = np.full((2, 3, 4), values)
    path = {name: {"kl": np.zeros((2, 3, 2)), "proxy": wins[..., :2], "gold": wins[..., :2]} for name in (STEP3, STEP4)}
    raw = {(name, voice): wins for name in (STEP3, STEP4, LONGEST, JUDGE, GOLD) for voice in (JUDGE, GOLD)}
    gold = dict.fromkeys((RANDOM, STEP3, STEP4), wins)
    picks = dict.fromkeys((STEP3, STEP4), np.zeros((2, 3), dtype=int))
    contests, level = {JUDGE: wins, GOLD: wins}, np.ones((3, 2))
    return world_best_of_n.SizeStudy(pool(np.zeros((3, 2))), raw, contests, gold, path, picks, level)


def test_the_evidence_is_what_the_rules_ask_for():
    found = WorldBestOfN([5, 10, 20, 50], [1, 2], {SMALL: made(0.4), LARGE: made(0.8)}, (0, 1))
    for claim in ("p1.c3", "p1.c4", "p1.c6"):
        assert set(found.evidence(claim)) == set(inventory.entry(claim)["courts"]["world"])
    assert {round(each.value, 6) for each in found.evidence("p1.c3").values()} == {60}
    assert {name[:5]: round(each.value) for name, each in found.evidence("p1.c4").items()} == {"small": 40, "large": 80}
    assert found.evidence("p1.c6")["largest_excess"].value == pytest.approx(-(np.log(2) - 0.5))
    more = (found.raw_records(), found.gold_records(), found.kl_records(), found.shortfall_records())
    for rows in (found.contest_records(), *more):
        assert len({(row.id, row.row, row.column) for row in rows}) == len(rows)


def test_one_pool_a_size_serves_everything(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_RUNS", str(tmp_path))

    def policy(role, settings):
        texts = artifacts.external(sets.lexicon() / sets.TEXTS)
        return artifacts.run(scratch, settings={"name": settings[role]}, inputs={"texts": texts}, seed=int(role == "large"))

    monkeypatch.setattr(sets, "LEXICON", 300)
    monkeypatch.setattr(miniature, "policy", policy)
    tier = load("smoke", TINY)
    world, own = (tier.section(name) for name in ("world", "p1_03_best_of_n"))
    models = {}
    for row, (size, _) in MAIN.items():
        rules = filtered_models.learning(size, world, tier.section("p1_02_reward_models"))
        pairs = sets.pairs("mix2", 16, len(models))
        models[row] = [TokenRewardModel(artifacts.run(**finetuning(pairs, rules, 0, policy(size, world))), rules)]
    before = len(artifacts.HISTORY)
    found = world_best_of_n.study(models, world, own, (0,))
    steps = [each["step"].split(".")[-1] for each in artifacts.HISTORY[before:] if not each["cached"]]
    assert steps.count("sample") == 2 and steps.count("rewards") == 4
    each = found.sizes[SMALL]
    assert each.answers.gold.shape == (10, 6) and {task.split for task in each.answers.tasks} == {"test"}
    assert each.answers.tasks == found.sizes[LARGE].answers.tasks
    assert each.contests[JUDGE].shape == (1, 10, 2) and found.path == [1, 2, 3, 5]
    assert found.largest_excess() < 0 and found.curve(SMALL, STEP4, "gold")[0][0] == 0
    best = [interval.value for interval in (found.raw(JUDGE, 5), found.raw(STEP4, 5), found.raw(STEP3, 5))]
    assert "prompt" in found.shown(0) and len(found.shown(0)) == 6
    assert best[0] >= max(best[1:]) and 1 <= each.different <= 6
