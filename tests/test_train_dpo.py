"""DPO training: a first step by another road, a visible preference learnt, what must change nothing, and bad pairs."""

import copy
import math

import numpy as np
import pytest
import torch

from repro.core import artifacts
from repro.core.errors import DataError, SettingsError
from repro.core.settings import Section
from repro.data.schema import Pair
from repro.models.load import load_model, load_tokenizer
from repro.models.logprobs import answer_logprobs
from repro.models.scratch import random_model, word_tokenizer
from repro.train.dpo import dpo_training, train_dpo
from repro.train.loop import train_pairs

WORDS = [f"w{letter}" for letter in "abcdefghijklmnop"]
SETTINGS = {"max_tokens": 64, "precision": "fp32", "device": "cpu", "beta": 0.1, "learning_rate": 1e-3}
SETTINGS |= {"batch_size": 16, "pairs_per_forward": 8, "epochs": 3, "warmup_ratio": 0.0, "weight_decay": 0.0}
SETTINGS |= {"max_gradient_norm": 1.0, "gradient_checkpointing": False}


def settings_of(**changes):
    return Section(SETTINGS | changes)


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer([" ".join([*WORDS, "Good", "Bad"])])


@pytest.fixture
def model(tokenizer):
    return random_model("miniature/0.1m", tokenizer, 0).eval()


@pytest.fixture
def folder(model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_RUNS", str(tmp_path / "runs"))
    model.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    return artifacts.external(tmp_path / "policy")


def pairs_of(count, seed=0):
    """Of two answers alike in all but their first word, the one that begins with Good is preferred."""
    rng = np.random.default_rng(seed)
    said = [" ".join(rng.choice(WORDS, rng.integers(1, 8))) for _ in range(count)]
    return [Pair((("user", text),), f"Good {text}", f"Bad {text} wa", "here") for text in said]


def rows_of(pairs):
    return [(pair.prompt, pair.chosen, pair.rejected) for pair in pairs]


def reference_of(model, tokenizer, rows):
    prompts, answers = [turns for turns, *_ in rows], [said for _, *said in rows]
    with torch.no_grad():
        return [each.numpy() for each in answer_logprobs(model, tokenizer, prompts, answers, limit=64)]


def model_loss(model, ids, labels):
    """transformers' own: the mean over the tokens that have a label."""
    return model(torch.tensor([ids]), labels=torch.tensor([labels])).loss


def test_the_first_step_by_another_road(model, tokenizer):
    """Loss, figures, gradient and the updated weights of one batch, from whole conversations and AdamW by hand."""
    other, rows = random_model("miniature/0.1m", tokenizer, 7).eval(), rows_of(pairs_of(5))
    reference = reference_of(other, tokenizer, rows)
    plain, logprobs = copy.deepcopy(model), []
    for turns, *said in rows:
        chat = [{"role": "user", "content": turns[0][1]}]
        start = tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
        for text in said:
            answer = tokenizer(f"{text}<|end|>", add_special_tokens=False)["input_ids"]
            ids, labels = [*start, *answer], [*[-100] * len(start), *answer]
            logprobs.append(-model_loss(plain, ids, labels) * len(answer))
    policy, fixed = torch.stack(logprobs).view(-1, 2), torch.tensor(np.array(reference), dtype=torch.float32)
    margins = 0.3 * ((policy - fixed)[:, 0] - (policy - fixed)[:, 1])
    loss = torch.log1p(torch.exp(-margins)).mean()
    loss.backward()
    norm = torch.stack([weights.grad.norm() for weights in plain.parameters()]).norm()
    with torch.no_grad():  # AdamW's first step: each weight by the learning rate against its gradient's sign
        for weights in plain.parameters():
            clipped = weights.grad * min(1, 1 / (norm + 1e-6))
            weights -= 1e-3 * clipped / (clipped.abs() + 1e-8)
    record = train_dpo(model, tokenizer, rows, reference, settings_of(beta=0.3, epochs=1, pairs_per_forward=2), 0)
    expected = {"loss": loss, "gradient_norm": norm, "learning_rate": torch.tensor(1e-3), "margin": margins.mean()}
    expected |= {"accuracy": (margins > 0).float().mean()}
    expected |= {"chosen_logprob": policy[:, 0].mean(), "rejected_logprob": policy[:, 1].mean()}
    assert set(record) == set(expected) and 0 < record["accuracy"][0] < 1
    for name, value in expected.items():
        assert record[name] == [pytest.approx(value.item(), rel=2e-5)], name
    for name, weights in model.named_parameters():
        steps = (weights - dict(plain.named_parameters())[name]).abs()
        assert steps.quantile(0.99) < 2e-5, name  # a gradient of almost 0 may have either sign


def test_activations_computed_again_change_nothing(folder, tokenizer):
    """Gradient checkpointing: the same record and weights, and the model does recompute (its layers run twice a step)."""
    rows, found = rows_of(pairs_of(8)), []
    for recompute in (False, True):
        model, calls = load_model(str(folder.path), task="language", device="cpu", recompute=recompute), []
        model.model.layers[0].mlp.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        record = train_dpo(model, tokenizer, rows, reference_of(model, tokenizer, rows), settings_of(epochs=1), 0)
        found.append((record, model.state_dict(), len(calls)))
    (plain, before, once), (again, after, twice) = found
    assert again == plain and all(torch.equal(after[name], before[name]) for name in before)
    assert (once, twice) == (2, 3)  # the reference reads once; the step once, and once more to go back


def test_a_visible_preference_is_learnt_from_log_two(model, tokenizer):
    rows, new = rows_of(pairs_of(96)), rows_of(pairs_of(40, seed=1))
    before, unseen = reference_of(model, tokenizer, rows), reference_of(model, tokenizer, new)
    record = train_dpo(model, tokenizer, rows, before, settings_of(), 0)
    assert record["loss"][0] == pytest.approx(math.log(2), abs=1e-6) and record["margin"][0] == pytest.approx(
        0, abs=1e-5
    )
    assert len(record["loss"]) == 18 and record["loss"][-1] < 0.5 and record["margin"][-1] > 0.5
    after = reference_of(model, tokenizer, new)
    assert np.mean([(now - then) @ [1, -1] > 0 for now, then in zip(after, unseen, strict=True)]) == 1


def test_beta_holds_the_policy_to_its_reference(tokenizer):
    """The same data and steps: the larger beta, the less the answers' odds must move for the same margin."""
    rows, moved = rows_of(pairs_of(32)), []
    for beta in (0.05, 2.0):
        model = random_model("miniature/0.1m", tokenizer, 0).eval()
        before = reference_of(model, tokenizer, rows)
        train_dpo(model, tokenizer, rows, before, settings_of(beta=beta, epochs=8, max_gradient_norm=0), 0)
        after = reference_of(model, tokenizer, rows)
        moved.append(np.mean([abs(now - then).sum() for now, then in zip(after, before, strict=True)]))
    assert moved[1] < 0.8 * moved[0]


@pytest.mark.parametrize("size", [1, 3, None])
def test_the_split_of_a_batch_changes_nothing(tokenizer, size):
    found = []
    for parts in (16, size):
        model = random_model("miniature/0.1m", tokenizer, 0).double().eval()
        rows = rows_of(pairs_of(40))
        reference = [said - [0.3, -0.2] for said in reference_of(model, tokenizer, rows)]
        record = train_dpo(model, tokenizer, rows, reference, settings_of(pairs_per_forward=parts), 0)
        found.append((record, model.state_dict()))
    (whole, weights), (split, others) = found
    for name, values in whole.items():
        assert split[name] == pytest.approx(values, abs=1e-6, rel=1e-6), name
    assert max((weights[name] - others[name]).abs().max() for name in weights) < 1e-6


def test_a_record_is_a_mean_over_pairs_not_over_parts():
    """Five pairs in parts of 2, 2 and 1 with figures 0 to 4: their mean is 2, that of the parts' means 2.33."""
    module = torch.nn.Linear(1, 1, bias=False)

    def objective(batch):
        values = batch.double()
        return (module.weight.sum() * values).mean(), {"figure": values.mean().item()}

    settings = settings_of(batch_size=5, pairs_per_forward=2, epochs=1)
    weight, record = module.weight.item(), train_pairs(module, objective, torch.arange(5), settings, seed=0)
    assert record["figure"] == [pytest.approx(2)] and record["loss"] == [pytest.approx(2 * weight)]
    assert record["gradient_norm"] == [pytest.approx(2)]
    with pytest.raises(DataError, match="no pairs"):
        train_pairs(module, objective, torch.arange(0), settings, seed=0)


def test_the_step_keeps_a_policy_and_is_found_again(folder, model, tokenizer):
    pairs = pairs_of(24)
    call = dpo_training(pairs, settings_of(epochs=1, workers=3), 0, policy=folder, reference=folder)
    made = artifacts.run(**call)
    assert artifacts.known(**dpo_training(pairs, settings_of(epochs=1), 0, policy=folder, reference=folder))
    assert not artifacts.known(
        **dpo_training(pairs, settings_of(epochs=1, beta=0.2), 0, policy=folder, reference=folder)
    )
    other = artifacts.run(**dpo_training(pairs, settings_of(epochs=1), 1, policy=folder, reference=folder))
    assert other.digest != made.digest
    after, again = load_model(str(made.path), task="language", device="cpu"), load_tokenizer(str(made.path))
    assert again.chat_template == tokenizer.chat_template
    reference = reference_of(model, tokenizer, rows_of(pairs))
    train_dpo(model, tokenizer, rows_of(pairs), reference, settings_of(epochs=1), 0)
    assert all(torch.equal(after.state_dict()[name], value) for name, value in model.state_dict().items())


def test_the_policy_moves_and_the_reference_counts(folder, tokenizer, tmp_path):
    """From another start than the reference's the first margin is not 0, and both starts are left as they were."""
    other = random_model("miniature/0.1m", tokenizer, 7)
    other.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    start, digest = artifacts.external(tmp_path / "other"), folder.digest
    made = artifacts.run(**dpo_training(pairs_of(24), settings_of(), 0, policy=start, reference=folder))
    assert '"pairs": 24' in (made / "history.json").read_text()
    assert (
        artifacts.external(tmp_path / "other").digest == start.digest
        and artifacts.external(folder.path).digest == digest
    )
    rows = rows_of(pairs_of(24))
    own, known = (
        reference_of(other.eval(), tokenizer, rows),
        reference_of(load_model(str(folder.path), task="language"), tokenizer, rows),
    )
    margins = [0.1 * (mine - theirs) @ [1, -1] for mine, theirs in zip(own, known, strict=True)]
    record = train_dpo(other, tokenizer, rows, known, settings_of(batch_size=24, epochs=1), 0)
    assert record["margin"] == [pytest.approx(np.mean(margins), abs=1e-5)] and abs(np.mean(margins)) > 1e-3


def test_bad_pairs_are_counted_and_the_first_is_named(folder):
    good = pairs_of(3)

    def call(*pairs):
        return dpo_training(pairs, settings_of(), 0, policy=folder, reference=folder)

    def pair(chosen, rejected):
        return Pair((("user", "wa wb"),), chosen, rejected, "here")

    with pytest.raises(DataError, match=r"pair 3, 'wa wb': 2 of 5 pairs with two equal answers"):
        call(*good, pair("wc", "wc"), pair("wd", "wd"))
    with pytest.raises(DataError, match=r"pair 1, 'wa wb': 1 of 3 pairs with an empty answer"):
        call(good[0], pair("wc", " \n"), good[1])
    with pytest.raises(DataError, match=r"prompt 2, answer 1, 'wa wb': 1 answers fill the limit of 64 tokens"):
        call(*good[:2], pair("wc", "wd " * 70))
    with pytest.raises(DataError, match="no pairs to train on"):
        call()


def test_a_loss_that_is_no_number_names_step_and_pairs(model, tokenizer):
    rows = rows_of(pairs_of(20))
    reference = reference_of(model, tokenizer, rows)
    reference[17] = np.array([math.nan, -3.0])
    with pytest.raises(DataError, match=r"step \d, pairs \[.*17.*\]: loss nan"):
        train_dpo(model, tokenizer, rows, reference, settings_of(batch_size=5), 0)
    with pytest.raises(DataError, match="20 pairs, reference of 19"):
        train_dpo(model, tokenizer, rows, reference[:19], settings_of(), 0)
    with pytest.raises(SettingsError, match="choose from fp32, bf16"):
        train_dpo(model, tokenizer, rows, reference, settings_of(precision="fp16"), 0)


def test_half_precision_learns_too(model, tokenizer):
    rows = rows_of(pairs_of(48))
    record = train_dpo(model, tokenizer, rows, reference_of(model, tokenizer, rows), settings_of(precision="bf16"), 0)
    assert record["loss"][0] == pytest.approx(math.log(2), abs=0.05) and record["loss"][-1] < 0.62
    assert model.dtype == torch.float32
