"""PPO: the optimum that can be listed, exact first ratios, every switch, a killed run, and bad input."""

import json
import math
from functools import partial
from itertools import chain

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from repro.core import artifacts
from repro.core.errors import DataError, SettingsError
from repro.core.settings import Section
from repro.data.schema import Pair
from repro.models.load import load_model
from repro.models.scratch import word_tokenizer
from repro.objectives.ensemble import aggregate
from repro.objectives.gibbs import gibbs_policy, regularised_value
from repro.train import ppo as module
from repro.train.actor import PPO_SETTINGS, SHARED, Actor, Answers, Rules, rules_of
from repro.train.ensemble import RewardEnsemble, ensemble_training
from repro.train.ppo import ppo_training, train_ppo
from repro.train.rollouts import collect, minibatches, prompt_order

END, WORDS = 1, 8
PROMPTS = [[2, 3, 4], [5], [6, 7], [3, 3, 2, 5], [4, 6], [7, 2, 2]]
RULES = Rules(iterations=2, rollouts=6, max_new_tokens=8, learning_rate=1e-3, epochs=2, minibatches=2)
LORA = {"lora_rank": 2, "lora_alpha": 4}
STEP = {f"ppo_{name}": value for name, value in vars(RULES).items() if name != "precision"}
STEP |= {"precision": "fp32", "device": "cpu", "max_tokens": 64, "calibrated": False}
STEP |= {"ppo_aggregate": "lcb", "ppo_aggregate_weight": 0.5, "ppo_aggregate_ddof": 0}
ASKED = [(("user", f"w{letter} wb"),) for letter in "abcdefg"]
mean = partial(aggregate, how="mean")


def rules(**changes):
    return Rules(**{**vars(RULES), **changes})


def policy(seed=0, vocabulary=WORDS, layers=2):
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        tie_word_embeddings=True,
        eos_token_id=END,
        pad_token_id=0,
        bos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


class Scorer:
    """Stands for an ensemble: member i gives a row i + the share of its tokens that are 4; it keeps what it was asked."""

    def __init__(self, k=3):
        self.k, self.asked = k, []

    def scores(self, rows):
        self.asked.append(rows)
        share = torch.tensor([row.count(4) / len(row) for row in rows])
        return torch.stack([share + member for member in range(self.k)])


def trained(seed=0, scratch=None, score=None, prompts=PROMPTS, **changes):
    actor = Actor(policy(), rules(**changes), seed)
    score = score or Scorer().scores
    return actor, train_ppo(actor, prompts, score, mean, seed, ends=[END], scratch=scratch)


def rollouts_of(score=None, actor=None, seed=0, coefficient=0.5, **changes):
    actor = actor or Actor(policy(), rules(**changes), seed)
    score = score or Scorer().scores
    given = {"ends": [END], "coefficient": coefficient, "seed": seed, "iteration": 0}
    return actor, collect(actor, PROMPTS, score, mean, **given)


def moved(actor, scale=0.3):
    """The actor away from its start, so that ratios, values and KL are not 1 and 0."""
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(5)
        for part in actor.weights():
            for weight in part.values():
                weight += scale * torch.randn_like(weight)
    return actor


def plain_logprobs(model, prompt, tokens, temperature=1.0):
    """One conversation alone, by transformers."""
    logits = model(torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1]
    return (logits / temperature).log_softmax(-1)[torch.arange(len(tokens)), list(tokens)]


class TestTheOptimum:
    """One-token answers of six words to two prompts: the best policy under a KL penalty is listed, pi_0 exp(r / beta) / Z."""

    table = torch.tensor([[0.0, 0.4, 1.0, -0.5, 0.2, 0.7], [0.9, 0.1, -0.4, 0.3, 0.0, 0.5]])
    prompts, beta = [[0, 2], [1, 3]], 0.5

    def distribution(self, model):
        with torch.no_grad():
            return torch.stack([model(torch.tensor([each])).logits[0, -1].log_softmax(-1) for each in self.prompts])

    def scores(self, rows):
        return torch.tensor([[self.table[row[0], row[2]] for row in rows]])

    def trained(self, **changes):
        given = {"iterations": 40, "rollouts": 128, "answers_per_prompt": 64, "max_new_tokens": 1, "minibatches": 1}
        given |= {
            "learning_rate": 2e-2,
            "whiten_advantages": False,
            "kl_coefficient": self.beta,
            "value_coefficient": 1.0,
        }
        given |= {"value_clip": None, "checkpoint_every": 1000}
        actor = Actor(policy(vocabulary=6, layers=1), rules(**{**given, **changes}), 0)
        reference = self.distribution(actor.core)
        train_ppo(actor, self.prompts, self.scores, mean, 0, ends=[])
        return reference, self.distribution(actor.core)

    @pytest.mark.parametrize("changes", [{}, {"value_head": SHARED}, {"lora_rank": 8, "lora_alpha": 16}])
    def test_ppo_finds_it(self, changes):
        """Total variation under 0.03 of each prompt's optimum, from 0.51 and 0.12; J within 0.005 of it, from 0.38 and 0.04."""
        reference, found = self.trained(**changes)
        best = gibbs_policy(reference, self.table, self.beta)
        distance = [(each.exp() - best.exp()).abs().sum(-1) / 2 for each in (reference, found)]
        assert bool((distance[0] > 0.1).all()) and bool((distance[1] < 0.03).all()), distance
        lost = [regularised_value(each, reference, self.table, self.beta) for each in (best, found)]
        assert bool((lost[0] - lost[1] < 5e-3).all())

    def test_without_a_penalty_it_plays_the_best_answer(self):
        _, found = self.trained(kl_coefficient=0.0, iterations=20)
        assert found.argmax(-1).tolist() == [2, 0] and bool((found.exp().amax(-1) > 0.9).all())


class TestReading:
    @pytest.mark.parametrize("changes", [{}, {"temperature": 0.7}, LORA])
    def test_log_probabilities_are_those_of_each_answer_alone(self, changes):
        actor, found = rollouts_of(actor=moved(Actor(policy(), rules(**changes), 0)))
        for row, (place, drawn) in enumerate(zip(found.prompts, found.drawn, strict=True)):
            alone = plain_logprobs(actor.core, PROMPTS[place], drawn.tokens, changes.get("temperature", 1.0))
            count = len(drawn.tokens)
            assert torch.allclose(found.logprobs[row, :count], alone, atol=1e-5)
            assert found.logprobs[row, count:].tolist() == [0] * (found.logprobs.shape[1] - count)

    @pytest.mark.parametrize("changes", [{}, LORA])
    def test_the_reference_stays_where_the_policy_began(self, changes):
        before = policy()
        actor, found = rollouts_of(actor=moved(Actor(policy(), rules(**changes), 0)))
        reference = actor.reference_logprobs(found.answers)
        for row, (place, drawn) in enumerate(zip(found.prompts, found.drawn, strict=True)):
            alone = plain_logprobs(before, PROMPTS[place], drawn.tokens)
            assert torch.allclose(reference[row, : len(alone)], alone, atol=1e-5)
        assert found.kl.abs().max() > 1e-3

    @pytest.mark.parametrize("head", ["separate", "shared"])
    def test_values_begin_at_zero(self, head):
        assert bool((rollouts_of(value_head=head)[1].values == 0).all())

    @pytest.mark.parametrize("head", ["separate", "shared"])
    def test_values_are_of_the_states_before_the_tokens(self, head):
        """By hand from hidden states; a head of its own leaves the policy's decoder out of the value's gradient."""
        actor, found = rollouts_of(actor=moved(Actor(policy(), rules(value_head=head), 0)))
        decoder = actor.core.model if head == SHARED else actor.decoder
        place, drawn = found.prompts[0], found.drawn[0]
        hidden = decoder(torch.tensor([[*PROMPTS[place], *drawn.tokens]])).last_hidden_state[0]
        expected = actor.head(hidden)[:, 0][len(PROMPTS[place]) - 1 :]
        assert torch.allclose(found.values[0, : len(drawn.tokens)], expected[:-1], atol=1e-5)
        assert actor.values_after(found.answers)[0].item() == pytest.approx(expected[-1].item(), abs=1e-5)
        actor.read(found.answers)[1].sum().backward()
        assert (actor.core.model.layers[0].mlp.up_proj.weight.grad is not None) == (head == SHARED)

    @pytest.mark.parametrize(
        "changes", [{}, LORA, {"value_head": "shared"}, {"rows_per_forward": 2}, {"temperature": 0.6}]
    )
    def test_the_first_ratio_is_exactly_one(self, changes):
        _, run = trained(**changes, iterations=3)
        assert run.history["ratio_error"] == [0.0] * 3 and run.history["kl"][0] == 0
        assert run.history["kl"][2] != 0

    def test_the_ratio_at_temperature_is_a_switch(self):
        """Off: ratio and KL of the model as it is, whatever was drawn from."""
        actor = moved(Actor(policy(), rules(temperature=0.5, at_temperature=False), 0))
        _, found = rollouts_of(actor=actor)
        place, drawn = found.prompts[0], found.drawn[0]
        alone = plain_logprobs(actor.core, PROMPTS[place], drawn.tokens)
        assert torch.allclose(found.logprobs[0, : len(alone)], alone, atol=1e-5)


class TestSwitches:
    def test_scores_are_the_ensembles_and_rewards_add_up_to_equation_2(self):
        scorer = Scorer()
        _, found = rollouts_of(scorer.scores, actor=moved(Actor(policy(), rules(), 0)))
        assert found.members.shape == (3, 6) and torch.allclose(found.scores, found.members.mean(0))
        assert torch.allclose(found.rewards.sum(1), found.scores - 0.5 * found.kl.sum(1), atol=1e-5)
        last = found.answers.lengths - 1
        rows = torch.arange(6)
        assert torch.allclose((found.rewards + 0.5 * found.kl)[rows, last], found.scores, atol=1e-5)

    def test_a_cut_answer_is_shown_closed_and_may_be_penalised(self):
        scorer = Scorer()
        _, plain = rollouts_of(scorer.scores)
        _, fined = rollouts_of(missing_end_penalty=2.0)
        cut = torch.tensor([not each.finished for each in plain.drawn])
        assert 0 < cut.sum() < 6 and [row[-1] for row in scorer.asked[0]] == [END] * 6
        assert [len(row) for row in scorer.asked[0]] == [
            len(PROMPTS[place]) + len(each.tokens) + (not each.finished)
            for place, each in zip(plain.prompts, plain.drawn, strict=True)
        ]
        assert torch.allclose(plain.scores - fined.scores, 2.0 * cut)

    def test_a_cut_answer_may_go_on_in_the_value_models_mind(self):
        """bootstrap: the advantage of a cut answer's last token gains gamma V of the state behind it; others stay."""
        actor = moved(Actor(policy(), rules(whiten_advantages=False, gamma=0.9), 0))
        _, over = rollouts_of(actor=actor)
        actor.rules = rules(whiten_advantages=False, gamma=0.9, truncation="bootstrap")
        _, going = rollouts_of(actor=actor)
        last, rows = over.answers.lengths - 1, torch.arange(6)
        gained = (going.estimates - over.estimates)[rows, last]
        cut = torch.tensor([not each.finished for each in over.drawn])
        assert torch.allclose(gained, 0.9 * actor.values_after(over.answers) * cut, atol=1e-5)

    def test_rewards_whitened_keep_their_mean_and_advantages_lose_theirs(self):
        _, plain = rollouts_of(whiten_advantages=False)
        _, white = rollouts_of(whiten_rewards=True)
        mask = plain.answers.mask
        assert white.rewards[mask].std(correction=0).item() == pytest.approx(1, abs=1e-3)
        assert white.rewards[mask].mean().item() == pytest.approx(plain.rewards[mask].mean().item(), abs=1e-5)
        assert white.estimates[mask].mean().item() == pytest.approx(0, abs=1e-6)
        assert white.estimates[mask].std(correction=0).item() == pytest.approx(1, abs=1e-3)
        assert abs(plain.estimates[mask].mean().item()) > 0.01

    def test_the_score_may_be_shared_by_all_tokens(self):
        _, found = rollouts_of(score_at="each", coefficient=0.0)
        assert torch.allclose(found.rewards.sum(1), found.scores, atol=1e-5)
        assert torch.allclose(found.rewards[:, 0] * found.answers.lengths, found.scores, atol=1e-5)

    def test_the_first_adam_step_knows_rate_and_epsilon(self):
        """Each weight moves by rate g / (|g| + epsilon): with epsilon 1 by about rate x g, gradients clipped or not."""
        for norm in (None, 1e-3):
            actor, _ = trained(iterations=1, epochs=1, minibatches=1, adam_epsilon=1.0, max_gradient_norm=norm)
            steps = [now - then for now, then in zip(actor.core.parameters(), policy().parameters(), strict=True)]
            length = torch.stack([each.norm() for each in steps]).norm().item()
            assert (length < 1.01e-6) if norm else (length > 1e-5)

    def test_gradients_are_clipped_together(self):
        actor, run = trained(iterations=1, epochs=1, minibatches=1, max_gradient_norm=0.01)
        total = math.sqrt(sum(w.grad.square().sum().item() for part in actor.weights() for w in part.values()))
        assert total == pytest.approx(0.01, rel=1e-3) and run.history["gradient_norm"][0] > 0.01

    def test_the_rate_falls_linearly_or_stays(self):
        assert trained(iterations=4)[1].history["learning_rate"] == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])
        assert trained(iterations=2, anneal="constant")[1].history["learning_rate"] == [1e-3, 1e-3]

    def test_the_coefficient_stays_or_adapts(self):
        assert trained(iterations=2)[1].history["kl_coefficient"] == [0.05, 0.05]
        found = trained(iterations=2, kl_target=6.0, kl_horizon=60.0)[1]
        assert found.history["kl_coefficient"] == pytest.approx([0.05, 0.05 * (1 - 0.2 * 6 / 60)])

    def test_clips_are_switches(self):
        """So tight a clip binds at once after the first step; without one nothing is clipped."""
        tight = trained(iterations=1, epochs=3, clip=1e-6, value_clip=1e-6)[1].history
        free = trained(iterations=1, epochs=3, clip=None, value_clip=None)[1].history
        assert tight["clipped"][0] > 0.2 and tight["value_clipped"][0] > 0.2
        assert free["clipped"] == [0.0] and free["value_clipped"] == [0.0]

    def test_the_split_of_a_forward_pass_changes_nothing(self):
        (whole, first), (split, second) = trained(), trained(rows_per_forward=1)
        for name in ("score", "kl", "policy_loss", "value_loss", "gradient_norm"):
            assert second.history[name] == pytest.approx(first.history[name], rel=1e-3, abs=1e-5), name
        for one, other in zip(whole.core.parameters(), split.core.parameters(), strict=True):
            assert torch.allclose(one, other, atol=1e-4)

    def test_half_precision_runs_with_first_ratios_of_one(self):
        assert trained(precision="bf16")[1].history["ratio_error"] == [0.0, 0.0]

    @pytest.mark.parametrize(
        "wrong",
        [{"temperature": 0}, {"minibatches": 7}, {"answers_per_prompt": 4}, {"lam": 1.5}, {"value_head": "both"}],
    )
    def test_rules_out_of_range(self, wrong):
        with pytest.raises(SettingsError, match=next(iter(wrong))):
            rules(**wrong)


class TestOrder:
    def test_all_prompts_come_before_one_comes_again(self):
        few = rules(rollouts=4, answers_per_prompt=2)
        found = [prompt_order(5, few, 0, iteration).tolist() for iteration in range(5)]
        together = list(chain(*found))
        assert sorted(together[:5]) == sorted(together[5:]) == list(range(5)) and together[:5] != together[5:]

    def test_an_epoch_holds_every_answer_once(self):
        few = rules(rollouts=7, minibatches=3, rows_per_forward=2)
        parts = list(minibatches(few, 0, 1, 0))
        assert sorted(torch.cat(list(chain(*parts))).tolist()) == list(range(7))
        assert [sum(map(len, each)) for each in parts] == [3, 2, 2] and max(len(p) for each in parts for p in each) == 2

    def test_a_prompt_asked_twice_has_two_answers(self):
        actor = Actor(policy(), rules(rollouts=6, max_new_tokens=8), 0)
        run = train_ppo(actor, [[2, 3]] * 6, Scorer().scores, mean, 0, ends=[END])
        assert len({tuple(each["tokens"]) for each in run.interactions[:6]}) > 1


def test_the_same_seed_gives_the_same_run_and_another_does_not():
    (one, first), (two, second), (_, other) = trained(), trained(), trained(seed=1)
    assert first.history == second.history and first.interactions == second.interactions
    assert all(torch.equal(a, b) for a, b in zip(one.core.parameters(), two.core.parameters(), strict=True))
    assert other.interactions != first.interactions


def test_every_interaction_is_kept():
    _, run = trained()
    assert len(run.interactions) == 12 and [each["step"] for each in run.interactions] == [0] * 6 + [4] * 6
    for each in run.interactions:
        closed = [*PROMPTS[each["prompt"]], *each["tokens"], *([] if each["finished"] else [END])]
        share = closed.count(4) / len(closed)
        assert each["rewards"] == pytest.approx([share, share + 1, share + 2])
    scores = [np.mean([each["score"] for each in run.interactions if each["iteration"] == place]) for place in (0, 1)]
    assert run.history["score"] == pytest.approx(scores)
    assert run.history["member_2"] == pytest.approx([score + 1 for score in scores])


class Killed(BaseException):
    """Stands for the kill; no `except Exception` may catch it."""


@pytest.mark.parametrize("changes", [LORA, {"value_head": "shared"}])
def test_a_killed_run_ends_as_it_would_have(tmp_path, changes):
    """Killed in iteration 3 of 5 with a checkpoint after 2: history, answers and weights are equal to the last bit."""
    changes = changes | {"iterations": 5, "checkpoint_every": 2, "kl_target": 1.0, "kl_horizon": 10.0}
    whole, expected = trained(scratch=tmp_path / "whole", **changes)
    scorer = Scorer()

    def killing(rows):
        if len(scorer.asked) == 3:
            raise Killed
        return scorer.scores(rows)

    with pytest.raises(Killed):
        trained(scratch=tmp_path / "killed", score=killing, **changes)
    actor, found = trained(scratch=tmp_path / "killed", **changes)
    assert found == expected
    for one, other in zip(actor.weights(), whole.weights(), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in other)
    for step in ("8", "16", "20"):
        files = [tmp_path / way / "checkpoints" / step / "moments.safetensors" for way in ("whole", "killed")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_a_checkpoint_is_an_ordinary_adapter_with_adams_moments(tmp_path):
    actor, run = trained(scratch=tmp_path, iterations=3, checkpoint_every=2, **LORA)
    folders = sorted((tmp_path / "checkpoints").iterdir(), key=lambda each: int(each.name))
    assert [each.name for each in folders] == ["8", "12"] and not (folders[0] / "loop").exists()
    state = json.loads((folders[0] / "state.json").read_text())
    rate = sum(run.history["learning_rate"][:2]) / 2
    assert state == {"step": 8, "learning_rate": pytest.approx(rate), "betas": [0.9, 0.999], "eps": 1e-5}
    again = PeftModel.from_pretrained(policy(), folders[1], is_trainable=True)
    for name, weight in again.named_parameters():
        assert torch.equal(weight, dict(actor.policy.named_parameters())[name])
    moments = load_file(folders[1] / "moments.safetensors")
    names = {name for name, weight in again.named_parameters() if weight.requires_grad}
    assert set(moments) == {f"{name}.{kind}" for name in names for kind in ("exp_avg", "exp_avg_sq")}
    assert all(moments[f"{name}.exp_avg"].shape == dict(again.named_parameters())[name].shape for name in names)


class TestBadInput:
    def test_a_loss_that_is_no_number_names_step_and_answers(self, monkeypatch):
        calls = []

        def broken(*given):
            calls.append(given)
            loss, clipped = module_loss(*given)
            return (loss * math.nan if len(calls) == 2 else loss), clipped

        module_loss = module.policy_loss
        monkeypatch.setattr(module, "policy_loss", broken)
        with pytest.raises(DataError, match=r"iteration 0, step 1, answers \[\d, \d, \d\]"):
            trained()

    def test_a_reward_that_is_no_number_names_the_member(self):
        def scores(rows):
            found = Scorer().scores(rows)
            found[2, 4] = math.nan
            return found

        with pytest.raises(DataError, match="iteration 0, member 2, answer 4"):
            trained(score=scores)

    def test_rewards_of_another_shape(self):
        with pytest.raises(DataError, match=r"\(6,\) for 6 answers"):
            trained(score=lambda rows: torch.zeros(len(rows)))

    @pytest.mark.parametrize("value", [0.0, 3.7])
    def test_constant_rewards_are_named_and_divide_nothing(self, capsys, value):
        _, run = trained(score=lambda rows: torch.full((2, len(rows)), value), whiten_rewards=True)
        assert run.history["constant_scores"] == [1, 1] and all(map(math.isfinite, run.history["policy_loss"]))
        assert capsys.readouterr().out.count("every answer has the same score") == 1

    def test_a_policy_that_only_ends_is_named(self, capsys):
        model = policy()
        lm = torch.nn.Linear(16, WORDS)
        lm.weight.data = model.lm_head.weight.detach().clone()
        lm.bias.data = torch.nn.functional.one_hot(torch.tensor(END), WORDS) * 100.0
        model.lm_head = lm
        actor = Actor(model, rules(), 0)
        run = train_ppo(actor, PROMPTS, Scorer().scores, mean, 0, ends=[END])
        assert (
            run.history["only_end"] == [1, 1] and run.history["length"] == [1, 1] and run.history["finished"] == [1, 1]
        )
        assert capsys.readouterr().out.count("every answer is only its end token") == 1

    def test_prompts_that_are_empty_too_long_or_none(self):
        with pytest.raises(DataError, match="prompt 1: empty"):
            trained(prompts=[[2], [], [3]])
        with pytest.raises(DataError, match="prompt 0: 62 tokens and 8 new ones"):
            trained(prompts=[[2] * 62])
        with pytest.raises(DataError, match="no prompts"):
            trained(prompts=[])


def retold(line):
    """Whether an answer's text gives its tokens back: a random policy also draws marks that no text keeps."""
    inside = line["tokens"][: -1 if line["finished"] else None]
    return min(inside, default=9) > 5 and "<" not in line["answer"]


class TestTheStep:
    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("REPRO_RUNS", str(tmp_path / "runs"))
        tokenizer = word_tokenizer([" ".join(f"w{letter}" for letter in "abcdefgh")])
        model = policy(vocabulary=len(tokenizer))
        model.generation_config.eos_token_id = model.config.eos_token_id = tokenizer.eos_token_id
        model.save_pretrained(tmp_path / "policy")
        tokenizer.save_pretrained(tmp_path / "policy")
        return artifacts.external(tmp_path / "policy")

    @pytest.mark.parametrize("changes", [{}, {"ppo_lora_rank": 2}])
    def test_it_keeps_policy_history_interactions_and_checkpoints(self, folder, monkeypatch, changes):
        monkeypatch.setattr(module, "RewardEnsemble", lambda *given: type("Loaded", (), {"load": staticmethod(Scorer)}))
        call = ppo_training(ASKED, Section(STEP | changes), 0, policy=folder, scorer=folder)
        made = artifacts.run(**call)
        model = load_model(str(made.path), task="language", device="cpu")
        assert not any("lora" in name for name, _ in model.named_parameters())
        history = json.loads((made / "history.json").read_text())
        lines = [json.loads(line) for line in (made / "interactions.jsonl").read_text().splitlines()]
        assert len(lines) == 12 and len(history["score"]) == 2
        assert all(set(each) >= {"prompt", "answer", "rewards", "step"} and len(each["rewards"]) == 3 for each in lines)
        assert all("<|" not in each["answer"] for each in lines)
        for each in lines:  # LCB of r, r + 1, r + 2: their mean less half an SD of sqrt(2 / 3)
            assert each["score"] == pytest.approx(np.mean(each["rewards"]) - 0.5 * math.sqrt(2 / 3), abs=1e-5)
        assert [each.name for each in (made / "checkpoints").iterdir()] == ["8"]
        assert not (made / "checkpoints" / "8" / "loop").exists()
        assert (made / "checkpoints" / "8" / "adapter_model.safetensors").exists() == bool(changes)
        assert artifacts.known(**call)

    def test_it_reads_an_ensemble(self, folder):
        """Two reward LoRAs as `train.ensemble` keeps them: the rewards kept are those of the answers' texts."""
        pairs = [
            Pair(turns, f"wa wb w{letter}", f"wc w{letter}", "here")
            for turns, letter in zip(ASKED, "abcdefg", strict=True)
        ]
        own = {"members": 2, "model": str(folder.path), "max_tokens": 64, "precision": "fp32", "device": "cpu"}
        own |= {"lora_rank": 2, "lora_alpha": 4, "lora_dropout": 0.0, "lora_targets": "all-linear", "lora_layers": None}
        own |= {"gradient_checkpointing": False, "learning_rate": 1e-2, "batch_size": 4, "pairs_per_forward": 4}
        own |= {"epochs": 1, "warmup_ratio": 0.0, "weight_decay": 0.0, "max_gradient_norm": 1.0}
        made = artifacts.run(**ensemble_training(pairs, Section(own), 0, folder, workers=1))
        trained = artifacts.run(
            **ppo_training(ASKED, Section(STEP | {"ppo_lora_rank": 2}), 0, policy=folder, scorer=made)
        )
        lines = [json.loads(line) for line in (trained / "interactions.jsonl").read_text().splitlines()]
        prompts, texts = [tuple(map(tuple, each["prompt"])) for each in lines], [[each["answer"]] for each in lines]
        expected = RewardEnsemble(made, Section(STEP)).member_rewards(prompts, texts)[:, :, 0].T
        plain = [row for row, each in enumerate(lines) if retold(each)]
        assert len(plain) > 2
        assert np.array([lines[row]["rewards"] for row in plain]) == pytest.approx(expected[plain], abs=1e-5)

    def test_empty_prompts_are_counted_and_the_first_is_named(self, folder):
        bad = [ASKED[0], (("user", " "),), (("user", ""),)]
        with pytest.raises(DataError, match="prompt 1: 2 of 3 prompts are empty"):
            ppo_training(bad, Section(STEP), 0, policy=folder, scorer=folder)
        with pytest.raises(DataError, match="no prompts"):
            ppo_training([], Section(STEP), 0, policy=folder, scorer=folder)

    def test_the_rules_are_the_settings(self):
        assert rules_of(Section(STEP)) == RULES and len(PPO_SETTINGS) == len(vars(RULES))


def test_a_part_of_the_answers_is_as_narrow_as_it_can_be():
    answers = Answers(torch.arange(12).view(2, 6), torch.tensor([1, 2]), torch.tensor([2, 4]))
    part = answers.part(torch.tensor([0]))
    assert part.ids.tolist() == [[0, 1, 2]] and part.mask.tolist() == [[True, True]]
