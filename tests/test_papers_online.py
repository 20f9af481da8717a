"""The online loop: pairs by hand, what starts from what, what recipes share, errors by name, and a kill in its middle."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from repro.core import artifacts
from repro.core.errors import DataError, SettingsError
from repro.papers import miniature, online_arms, online_rlhf
from repro.papers.online_rlhf import BEST_RANDOM, FIRST, LAST, RAW, TWO_CHECKPOINTS, Recipe, preference_pairs
from repro.world import sources
from tests import online_loop

PLAIN = Recipe(None, n=3, beta=0.1, iterations=3, prompts_per_iteration=2, learning_rate=1e-3, temperatures=(1.0,))
ASKED = sources.prompts(1, "train", 0)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("online")


@pytest.fixture(autouse=True)
def here(runs, monkeypatch):
    monkeypatch.setenv("REPRO_RUNS", str(runs))
    monkeypatch.setenv("REPRO_BATCH", "1")
    monkeypatch.setattr(miniature, "policy", online_loop.first)
    monkeypatch.setattr(online_rlhf, "policy", online_loop.first)
    monkeypatch.setattr(online_arms, "policy", online_loop.first)


def paired(recipe, texts, rewards, seed=0):
    found = preference_pairs(recipe, ASKED, [texts], np.array([rewards], dtype=float), np.random.default_rng(seed))
    return [(pair.chosen, pair.rejected) for pair in found]


def test_best_against_worst_and_what_gives_no_pair():
    assert paired(PLAIN, ["a", "b", "c"], [1, 3, -2]) == [("b", "c")]
    assert paired(PLAIN, ["a", "b", "c"], [2, 2, 2]) == []
    assert paired(PLAIN, ["a", "a", "a"], [1, 2, 3]) == []  # a reward model in half width may say so
    assert paired(PLAIN, ["a", " ", "c"], [1, -3, 2]) == []  # nothing said, nothing to learn


def test_best_against_random_takes_any_other_reward_and_never_loses_a_pair_to_chance():
    one_sided = replace(PLAIN, exploration=BEST_RANDOM)
    found = {paired(one_sided, ["a", "b", "c"], [1, 3, -2], seed)[0] for seed in range(40)}
    assert found == {("b", "a"), ("b", "c")}
    assert {paired(one_sided, ["a", "b", "c"], [3, 3, 1], seed)[0] for seed in range(40)} == {("a", "c")}
    assert paired(one_sided, ["a", "b", "c"], [2, 2, 2]) == []


def test_a_penalty_for_each_character_changes_pick_and_order():
    """1 - .1 x 1 = .9, 3 - .1 x 30 = 0, 1.5 - .1 x 2 = 1.3: the long answer is now the worst, though its raw reward is best."""
    texts, rewards = ["a", "b" * 30, "cc"], [1, 3, 1.5]
    assert paired(PLAIN, texts, rewards) == [("b" * 30, "a")]
    assert paired(replace(PLAIN, penalty=0.1), texts, rewards) == [("cc", "b" * 30)]
    assert paired(replace(PLAIN, penalty=0.1, order=RAW), texts, rewards) == [("b" * 30, "cc")]
    assert paired(replace(PLAIN, order=RAW), texts, rewards) == paired(PLAIN, texts, rewards)


@pytest.mark.parametrize(
    "wrong", [{"exploration": "worst"}, {"order": "x"}, {"start": "pi_1"}, {"reference": "none"}, {"n": 1}]
)
def test_a_choice_that_is_none_is_named(wrong):
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        replace(PLAIN, **wrong)
    with pytest.raises(SettingsError, match="6 answers cannot be shared by 4"):
        replace(PLAIN, n=6, temperatures=(1.0, 0.7), exploration=TWO_CHECKPOINTS)


def test_iterations_ask_different_prompts_and_one_batch_asks_the_same_at_once():
    recipe = replace(PLAIN, prompts_per_iteration=40)
    batches = online_rlhf.prompt_batches(recipe, 0)
    every = [task.turns for asked in batches for task in asked]
    assert [len(asked) for asked in batches] == [40] * 3 and len(set(every)) == 120
    assert {task.split for asked in batches for task in asked} == {"train"}
    at_once = online_rlhf.prompt_batches(online_arms.one_batch(recipe), 0)
    assert [[task.turns for task in asked] for asked in at_once] == [every]


def test_too_few_prompts_are_counted(monkeypatch):
    monkeypatch.setattr(sources, "prompts", lambda count, split, seed: ASKED * count)
    with pytest.raises(DataError, match="1 different prompts for 3 iterations of 2"):
        online_rlhf.prompt_batches(PLAIN, 0)


def test_the_loop_starts_from_the_last_iterate_and_weighs_against_the_first():
    done = online_loop.follow()
    first, origin = online_loop.first(), [each.policy.manifest["inputs"]["policy"] for each in done]
    assert origin == [first.digest, done[0].policy.digest]
    assert [len(each.pairs) + each.dropped for each in done] == [6, 6]
    assert all(len(row) == 4 for each in done for row in each.texts) and done[0].rewards.shape == (6, 4)
    assert done[0].history["pairs"] == len(done[0].pairs)
    assert set(done[1].seconds) == {"generating", "scoring", "training"} and min(done[1].seconds.values()) > 0


def test_restarting_learns_from_all_pairs_so_far_and_from_pi_0():
    last, again = online_loop.follow(), online_loop.follow(start=FIRST)
    assert again[0].policy.digest == last[0].policy.digest
    assert again[1].policy.manifest["inputs"]["policy"] == online_loop.first().digest
    assert again[1].history["pairs"] == len(again[0].pairs) + len(again[1].pairs)


def test_the_reference_may_be_the_last_iterate():
    ours, released = online_loop.follow(), online_loop.follow(reference=LAST)
    assert released[0].policy.digest == ours[0].policy.digest
    assert released[1].policy.digest != ours[1].policy.digest
    assert released[1].texts == ours[1].texts


def test_recipes_share_the_stages_that_they_agree_on():
    paper, one_sided = online_loop.follow(), online_loop.follow(exploration=BEST_RANDOM)
    two = online_loop.follow(exploration=TWO_CHECKPOINTS)
    for name in ("generating", "scoring"):
        digests = {tuple(made.key for made in each[0].stages[name]) for each in (paper, one_sided, two)}
        assert len(digests) == 1
    assert one_sided[0].policy.key != paper[0].policy.key and two[0].policy.key == paper[0].policy.key
    assert [len(made.stages["generating"]) for made in two] == [2, 4]
    before = {each.policy.key for each in paper}
    assert {made.manifest["key"] for made in two[1].stages["generating"]} & before == set()
    artifacts.HISTORY.clear()
    online_loop.follow()
    assert all(line["cached"] for line in artifacts.HISTORY)


def test_a_reward_that_is_no_number_is_named(monkeypatch):
    found = np.zeros((6, 4))
    found[3, 1] = np.nan
    recipe = online_loop.recipe()
    monkeypatch.setattr(type(recipe.reward_model), "pool_rewards", lambda *_: list(found))
    with pytest.raises(DataError, match=r"iteration 1, prompt 3: reward nan of answer 1"):
        online_loop.follow()


def test_an_iteration_without_pairs_is_named(monkeypatch):
    recipe = online_loop.recipe()
    monkeypatch.setattr(type(recipe.reward_model), "pool_rewards", lambda *_: list(np.zeros((6, 4))))
    with pytest.raises(DataError, match="iteration 1: none of 6 prompts gave a pair"):
        online_loop.follow()


def program(runs, *words):
    command = [sys.executable, "-m", "tests.online_loop", *map(str, words)]
    environment = {**os.environ, "REPRO_RUNS": str(runs)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_killed_run_goes_on_and_ends_where_an_unbroken_one_does(tmp_path, runs):
    whole = online_loop.weights(online_loop.follow()[-1])
    killed = program(tmp_path, 0, 1)
    assert killed.returncode == 9 and "weights" not in killed.stdout
    went_on = program(tmp_path, 0)
    computed, weights = (went_on.stdout.split()[place] for place in (-3, -1))
    assert weights == whole  # another folder, another process: the same weights
    assert (
        0 < int(computed) <= 4
    )  # rewards, log-probabilities of the reference, the second training; nothing of the first


def test_measured_is_nothing_at_pi_0_and_a_tie_against_itself():
    world, settings = online_loop.sections()
    found = online_arms.measured(online_loop.first(), online_loop.reward_model(world), world, settings)
    assert found.gold.shape == (10, 2) == found.proxy.shape
    assert np.nan_to_num(found.log_ratio).max() == 0 and (found.won == 50).all()
    short = replace(found, log_ratio=np.array([[1.0, np.nan]] * 9 + [[np.nan, np.nan]]))
    assert short.by_prompt("log_ratio")[:9] == pytest.approx(1.0) and np.isnan(short.by_prompt("log_ratio")[9])


def test_the_best_rate_is_chosen_and_the_smaller_of_equals():
    from repro.core.statistics import Interval

    wins = {
        "arm": {rate: Interval(value, value, value, 9) for rate, value in ((4e-4, 60.0), (2e-4, 60.0), (8e-4, 51.0))}
    }
    assert online_arms.Tuning(wins).rates == {"arm": 2e-4}
    assert len(online_arms.Tuning(wins).records()) == 3
