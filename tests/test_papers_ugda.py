"""p3.alg1: equal budgets by hand, experts, what methods share, a kill in the middle, whether selecting can work, bad input."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import PeftModel

from repro.core import artifacts
from repro.core.errors import DataError, SettingsError
from repro.core.settings import load
from repro.data.schema import Pair
from repro.gradients.losses import preference_losses, regression_losses
from repro.models.load import load_model
from repro.objectives.relabel import relabelled_rewards
from repro.papers import experts, miniature, ugda, ugda_measures, ugda_prompts
from repro.papers.ugda import Interactions, refinement, run_methods, select
from repro.papers.ugda_methods import CONTROLS, METHODS, Method, budget
from repro.papers.ugda_prompts import flipped, subtask_of
from repro.train.ensemble import RewardEnsemble
from repro.world import sources
from tests import online_loop

SMALL = {"preference_pairs": 24, "ppo_prompts": 12, "reference_prompts": 6, "validation_samples": 3, "test_prompts": 3}
SMALL |= {
    "ppo_rollouts": 12,
    "ppo_max_new_tokens": 6,
    "gain_samples": 5,
    "members": 2,
    "batch_size": 8,
    "ppo_epochs": 1,
}
SMALL |= {"refine_batch_size": 2, "refine_epochs": 4}
SHORT = ["PPO", "LCB", "RLR", "UGDA(RA)", "UGDA(UN)", "UGDA", "own labels"]
TASKS = sources.prompts(40, "train", 0)


def sections():
    found = load("smoke")
    world, settings = found.section("world"), found.section("p3_03_ugda")
    return world.pick(*world, max_new_tokens=8), settings.pick(*settings, **SMALL)


WORLD, SETTINGS = sections()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("ugda")


@pytest.fixture(autouse=True)
def here(runs, monkeypatch):
    monkeypatch.setenv("REPRO_RUNS", str(runs))
    monkeypatch.setenv("REPRO_BATCH", "1")
    for module in (miniature, ugda, ugda_measures):
        monkeypatch.setattr(module, "policy", online_loop.first)


def interactions(rewards, texts=None):
    """D_inter without models behind it."""
    rewards = np.asarray(rewards, dtype=float)
    count = rewards.shape[1]
    return Interactions(None, None, None, TASKS[:count], texts or ["Sure."] * count, rewards, np.zeros(count))


def doubted(variances):
    """Two members' rewards with these variances: v = d^2 of +-d."""
    return interactions(np.sqrt(np.asarray(variances, dtype=float)) * np.array([[1.0], [-1.0]]))


def chosen(method, found, scores, monkeypatch, seed=0):
    monkeypatch.setattr(ugda, "influence_of", lambda *_: np.asarray(scores, dtype=float))
    return select(method, found, WORLD, SETTINGS, seed)


class TestBudgets:
    def test_half_of_a_half_rounded_up_each_time(self):
        """Of 8 samples 4 and 2; of 10 ranks .6 to 1 are 5, of 5 ranks .6, .8, 1 are 3; of 1 it is 1."""
        assert [budget(count, SETTINGS) for count in (8, 10, 7, 1)] == [2, 3, 2, 1]
        with pytest.raises(SettingsError, match="gamma 0.75 and eta 0.5 leave 0.125, annotated_share is 0.25"):
            budget(8, SETTINGS.pick(*SETTINGS, gamma=0.75))

    @pytest.mark.parametrize("count", [8, 10, 37])
    def test_every_method_is_given_as_many_labels(self, count, monkeypatch):
        rng = np.random.default_rng(0)
        found, scores = interactions(rng.normal(size=(3, count))), rng.normal(size=(count, 2))
        sizes = {
            name: len(chosen(each, found, scores, monkeypatch).places)
            for name, each in METHODS.items()
            if each.selection != "none"
        }
        assert sizes.pop("all labelled") == count
        assert set(sizes.values()) == {budget(count, SETTINGS)} and len(sizes) == 10

    def test_the_four_selections_by_hand(self, monkeypatch):
        """Variances rank places 7, 6, 5, 4 highest; influence, the larger of two subtasks, ranks 0, 1, 4, 5."""
        found = doubted([1, 2, 3, 4, 5, 6, 7, 8])
        scores = [[9, 0], [0, 8], [0, 0], [1, 1], [0, 7], [6, 0], [2, 2], [3, 1]]
        places = {
            name: chosen(METHODS[name], found, scores, monkeypatch).places.tolist()
            for name in METHODS
            if "UGDA" in name
        }
        assert places["UGDA"] == [4, 5] and places["UGDA(UN)"] == [6, 7] and places["UGDA(GR)"] == [0, 1]
        assert len(places["UGDA(RA)"]) == 2

    def test_ties_are_drawn_by_the_seed_and_counted(self, monkeypatch):
        found, scores = doubted([1] * 8), np.zeros((8, 2))
        picks = {seed: chosen(Method(), found, scores, monkeypatch, seed) for seed in range(6)}
        again = chosen(Method(), found, scores, monkeypatch, 0)
        assert picks[0].places.tolist() == again.places.tolist() and picks[0].tied == 8 + 4
        assert len({tuple(each.places.tolist()) for each in picks.values()}) > 1

    def test_two_random_draws_differ_and_all_baselines_have_one(self, monkeypatch):
        found = interactions(np.random.default_rng(0).normal(size=(3, 40)))
        places = {
            name: tuple(chosen(METHODS[name], found, [], monkeypatch).places)
            for name in ("LCB", "UWO", "RLR", "UGDA(RA)", "own labels")
        }
        assert places["LCB"] == places["UWO"] == places["RLR"] != places["UGDA(RA)"] == places["own labels"]


@pytest.mark.parametrize("wrong", [{"selection": "best"}, {"aggregate": "max"}, {"expert": "me"}, {"start": "x"}])
def test_a_choice_that_is_none_is_named(wrong):
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        Method(**wrong)


class TestExperts:
    def test_the_ensembles_own_level_is_the_fifth_its_mean_lies_in(self):
        """Means 10, 20, ... 100: two to a level, whatever the spread about them."""
        mean = np.arange(10, 110, 10.0)
        rewards = np.stack([mean - 3, mean + 3])
        assert experts.levels_of(experts.OWN, [], [], rewards).tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
        equal = experts.levels_of(experts.OWN, [], [], np.array([[1.0, 1.0, 1.0, 1.0, 2.0]]))
        assert equal.tolist() == [1, 1, 1, 1, 5]  # equal means are one level, and the others stay empty

    def test_the_judge_reads_answers_and_an_empty_one_too(self):
        texts = [""] + ["Sure. Happy to help."] * 3
        levels = experts.levels_of(experts.JUDGE, TASKS[:4], texts, np.zeros((2, 4)))
        assert levels.shape == (4,) and set(levels.tolist()) <= {1, 2, 3, 4, 5}
        with pytest.raises(SettingsError, match="unknown expert 'nobody'"):
            experts.levels_of("nobody", [], [], [[1.0]])


class TestPrompts:
    def test_exactly_the_share_is_turned(self):
        pairs = [Pair((("user", str(place)),), "good", "bad", "here") for place in range(10)]
        turned = flipped(pairs, 0.2, 0)
        assert sum(pair.chosen == "bad" and pair.rejected == "good" for pair in turned) == 2
        assert flipped(pairs, 0.0, 0) == pairs and flipped(pairs, 0.2, 0) == turned != flipped(pairs, 0.2, 3)
        with pytest.raises(SettingsError, match="1.5 is no share"):
            flipped(pairs, 1.5, 0)

    def test_prompts_are_on_their_side_and_never_twice(self):
        test, tuned = ugda_prompts.test_prompts(SETTINGS), ugda_prompts.tuning_prompts(SETTINGS, 0)
        assert [subtask_of(task) for task in test] == ["helpful"] * 3 + ["harmless"] * 3
        assert {task.split for task in test} == {"test"} and {task.split for task in tuned} == {"train"}
        asked = [task.turns for task in ugda_prompts.ppo_prompts(SETTINGS, 0)]
        assert len(set(asked)) == len(asked) == 12
        found = ugda_prompts.validation_texts(SETTINGS, 0)
        assert {name: len(texts) for name, texts in found.items()} == {"helpful": 3, "harmless": 3}
        with pytest.raises(DataError, match="2 helpful prompts where 3 are wanted"):
            ugda_prompts._first([pair for pair in _pairs("helpful", 2)], "helpful", 3, "here")
        with pytest.raises(DataError, match="sums is of no subtask"):
            subtask_of(replace(TASKS[0], category="sums"))


def _pairs(subtask, count):
    asked = [task for task in ugda_prompts.test_prompts(SETTINGS) if subtask_of(task) == subtask]
    return [Pair(task.turns, "a", "b", "here", {"task": task.row()}) for task in asked[:count]]


@pytest.fixture(scope="module")
def done(runs):
    """The short list of methods on a policy of random weights, and the stages that were computed for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_RUNS", str(runs))
        patch.setenv("REPRO_BATCH", "1")
        patch.setattr(ugda, "policy", online_loop.first)
        online_loop.first()
        artifacts.HISTORY.clear()
        found, outcomes = run_methods({name: METHODS[name] for name in SHORT}, WORLD, SETTINGS, 0)
        computed = [line["step"].rpartition(".")[2] for line in artifacts.HISTORY if not line["cached"]]
        return found, outcomes, computed


class TestThePipeline:
    def test_what_methods_share_is_computed_once(self, done):
        """Seven methods: one ensemble, one scoring of influence; RLR and LCB refine once; PPO is the run that collected."""
        found, outcomes, computed = done
        counts = {name: computed.count(name) for name in ("train_member", "ensemble", "influence", "refined", "ppo")}
        assert counts == {"train_member": 2, "ensemble": 1, "influence": 1, "refined": 5, "ppo": 7}
        assert outcomes["PPO"].policy.path == found.run.path and outcomes["PPO"].ensemble.path == found.ensemble.path
        assert outcomes["LCB"].ensemble.path == outcomes["RLR"].ensemble.path != found.ensemble.path
        assert outcomes["LCB"].policy.path != outcomes["RLR"].policy.path

    def test_labels_are_counted_and_equal(self, done):
        found, outcomes, _ = done
        assert len(found) == 24 and found.rewards.shape == (2, 24) and set(found.steps) == {0, 2}
        size = budget(24, SETTINGS)
        assert {name: each.labels for name, each in outcomes.items()} == {"PPO": 0, "own labels": 0} | {
            name: size for name in SHORT if name not in ("PPO", "own labels")
        }
        assert len(outcomes["own labels"].levels) == size
        assert set(outcomes["UGDA"].missing) == set(range(1, 6)) - set(outcomes["UGDA"].levels.tolist())

    def test_uncertainty_is_the_variance_of_the_members(self, done):
        found, outcomes, _ = done
        variances, places = found.rewards.var(0), outcomes["UGDA(UN)"].selection.places
        assert variances[places].min() >= np.delete(variances, places).max()
        assert set(outcomes["UGDA"].selection.places) <= set(np.argsort(variances)[-12:])

    def test_refined_members_are_nearer_to_their_targets(self, done):
        found, outcomes, _ = done
        one = outcomes["UGDA(UN)"]
        targets = relabelled_rewards(one.levels, found.rewards, 0, 0.01).targets
        prompts = [found.tasks[place].turns for place in one.selection.places]
        texts = [[found.texts[place]] for place in one.selection.places]
        own = ugda.chapter_settings(WORLD, SETTINGS)
        errors = [
            ((RewardEnsemble(each, own).member_rewards(prompts, texts)[..., 0] - targets) ** 2).mean()
            for each in (found.ensemble, one.ensemble)
        ]
        assert errors[1] < errors[0]

    def test_it_is_found_again_and_a_killed_run_goes_on(self, done, monkeypatch):
        """The last method ends in the middle of its policy; afterwards only that policy is missing."""
        methods = {name: METHODS[name] for name in ("PPO", "UGDA(GR)")}
        plain = artifacts.run

        def killed(step, **words):
            if step.__name__ == "ppo" and words["inputs"]["scorer"].path != done[0].ensemble.path:
                raise KeyboardInterrupt
            return plain(step, **words)

        monkeypatch.setattr(artifacts, "run", killed)
        with pytest.raises(KeyboardInterrupt):
            run_methods(methods, WORLD, SETTINGS, 0)
        monkeypatch.setattr(artifacts, "run", plain)
        artifacts.HISTORY.clear()
        _, outcomes = run_methods(methods, WORLD, SETTINGS, 0)
        computed = [line["step"] for line in artifacts.HISTORY if not line["cached"]]
        assert computed == ["train.ppo.ppo"] and outcomes["UGDA(GR)"].labels == budget(24, SETTINGS)

    def test_a_dimension_that_was_not_scored_is_named(self, done):
        with pytest.raises(SettingsError, match="dimension 7 was not scored"):
            ugda.influence_of(done[0], WORLD, SETTINGS, 0, 7)


class TestMeasures:
    def test_a_policy_and_its_reward_model(self, done):
        found, outcomes, _ = done
        asked = ugda_prompts.test_prompts(SETTINGS)
        sft = ugda_measures.measured(found.sft, asked, WORLD, SETTINGS)
        ours = ugda_measures.measured(outcomes["UGDA"].policy, asked, WORLD, SETTINGS, outcomes["UGDA"].ensemble)
        assert (
            sft.gold.shape == ours.proxy.shape == (6, 2) and np.isnan(sft.proxy).all() and np.isfinite(ours.proxy).all()
        )
        assert np.nanmax(np.abs(sft.log_ratio), initial=0) < 1e-4  # SFT is not far from itself
        assert ours.of("helpful").shape == (3,) and np.isclose(ours.variance("harmless").value, ours.gold[3:].var())
        found = ugda_measures.accuracy(found.ensemble, found.sft, asked, WORLD, SETTINGS)
        assert {name: each.shape for name, each in found.items()} == {"helpful": (3,), "harmless": (3,)}

    def test_whether_selecting_can_work(self, done):
        found, _, _ = done
        graded = replace(
            found, texts=[text if place else "Sure. Happy to help." for place, text in enumerate(found.texts)]
        )
        check = ugda_measures.selection_check(graded, WORLD, SETTINGS, 0)
        for each in (check.error, check.judged, check.gain, check.doubt_gain):
            assert np.isnan(each.value) or -1 <= each.low <= each.value <= each.high <= 1
        assert len(check.places) == len(check.gains) == 5 and check.error.n <= 12

    def test_rank_error_and_correlation_by_hand(self):
        """Ranks 1, 2, 3, 4 against 4, 2.5, 2.5, 1: off by 3, .5, .5 and 3 of 4."""
        assert ugda_measures.rank_error(np.array([1, 2, 3, 4.0]), np.array([9, 5, 5, 1.0])).tolist() == [
            0.75,
            0.125,
            0.125,
            0.75,
        ]
        with pytest.raises(DataError, match="every truth is 2"):
            ugda_measures.rank_error(np.array([1.0, 2.0]), np.array([2.0, 2.0]))
        values = np.arange(10.0)
        assert ugda_measures.correlation(values, -values, np.arange(10)).value == pytest.approx(-1)
        assert np.isnan(ugda_measures.correlation(values, np.ones(10), np.arange(10)).value)

    def test_a_gain_is_the_fall_of_the_loss_after_a_small_step(self, done):
        """One plain step of rate 1e-4 on each sample alone, for real, against the first-order gain."""
        folder = done[0].ensemble / "member_0"
        rng = np.random.default_rng(0)
        rows = [torch.from_numpy(rng.integers(3, 60, size)) for size in (5, 8, 6, 7, 9, 4)]
        pairs, samples = [(rows[0], rows[1]), (rows[2], rows[3])], [(rows[4], 2.0), (rows[5], -3.0)]
        model = load_model(str(online_loop.first().path), task="reward", device="cpu")
        adapted = PeftModel.from_pretrained(model, folder, is_trainable=True).eval().double()
        gains, rate = ugda_measures.member_gains(adapted, pairs, samples), 1e-4
        learns = [weight for weight in adapted.parameters() if weight.requires_grad]
        for gain, sample in zip(gains, samples, strict=True):
            before = preference_losses(adapted, pairs).mean().item()
            steps = torch.autograd.grad(regression_losses(adapted, [sample]).sum(), learns)
            with torch.no_grad():
                for weight, step in zip(learns, steps, strict=True):
                    weight -= rate * step
                after = preference_losses(adapted, pairs).mean().item()
                for weight, step in zip(learns, steps, strict=True):
                    weight += rate * step
            assert gain.item() == pytest.approx((before - after) / rate, rel=0.02, abs=1e-3)


def only_ends(job):
    """Step: what PPO leaves where every answer is its end token alone."""
    rows = [{"prompt": turns, "answer": "", "rewards": [0.1, 0.2], "step": 0} for turns in job.settings.prompts]
    (job.out / "interactions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


class TestBadInput:
    def test_a_policy_that_only_ends_is_named(self, done, monkeypatch):
        asked = [list(map(list, task.turns)) for task in ugda_prompts.ppo_prompts(SETTINGS, 0)]
        monkeypatch.setattr(ugda, "_ppo", lambda *_: {"step": only_ends, "settings": {"prompts": asked}})
        with pytest.raises(DataError, match="D_inter: all 12 answers are empty"):
            ugda.collect(WORLD, SETTINGS, 0)

    def test_empty_answers_among_others_are_scored_and_labelled(self, done):
        found = replace(done[0], texts=["" if place < 4 else text for place, text in enumerate(done[0].texts)])
        assert np.isfinite(ugda.influence_of(found, WORLD, SETTINGS, 0)).all()
        assert refinement(CONTROLS["all labelled"], found, WORLD, SETTINGS, 0).labels == 24

    def test_constant_rewards_are_named_by_member(self, done):
        rewards = done[0].rewards.copy()
        rewards[1] = 0.5
        with pytest.raises(DataError, match="member 1: all 24 rewards are 0.5"):
            refinement(METHODS["RLR"], replace(done[0], rewards=rewards), WORLD, SETTINGS, 0)

    def test_a_reward_that_is_no_number_is_named(self, done):
        rewards = done[0].rewards.copy()
        rewards[1, 3] = np.nan
        with pytest.raises(DataError, match="member 1"):
            refinement(METHODS["UGDA"], replace(done[0], rewards=rewards), WORLD, SETTINGS, 0)

    def test_fewer_than_five_levels_are_told(self, done, monkeypatch):
        monkeypatch.setattr(ugda, "levels_of", lambda *_: np.full(24, 3))
        outcome = refinement(METHODS["RLR"], done[0], WORLD, SETTINGS, 0)
        assert outcome.missing == (1, 2, 4, 5) and outcome.labels == budget(24, SETTINGS)
