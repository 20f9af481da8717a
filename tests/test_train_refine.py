"""Refinement: by hand, towards each member's own targets, on the scale of before; kept, found again, and bad input."""

import json

import numpy as np
import pytest
import torch

from repro.core import artifacts
from repro.core.errors import DataError
from repro.core.settings import Section
from repro.models.load import load_model
from repro.models.lora import load_adapters
from repro.train import refine as module
from repro.train.ensemble import RewardEnsemble, ensemble_training
from repro.train.refine import refine, refining
from tests.test_train_ensemble import SETTINGS, folder, pairs_of, runs  # noqa: F401 (fixtures)

TEXTS = [((("user", f"w{place}"),), f"w{place} good" if place % 2 else f"bad w{place}") for place in range(8)]
TARGETS = np.array([np.linspace(-2, 2, 8), np.linspace(1, -1, 8)])


@pytest.fixture(scope="module")
def settings(folder):  # noqa: F811
    return Section({"model": str(folder), **SETTINGS, "learning_rate": 0.01, "epochs": 12, "batch_size": 4})


@pytest.fixture(scope="module")
def trained(folder, runs):  # noqa: F811
    few = Section({"model": str(folder), **SETTINGS})
    return artifacts.run(**ensemble_training(pairs_of(48), few, seed=0, workers=1))


def rewards_of(ensemble, settings, texts=TEXTS):
    found = RewardEnsemble(ensemble, settings).member_rewards(
        [turns for turns, _ in texts], [[text] for _, text in texts]
    )
    return found[..., 0]


def again(trained, settings, targets=TARGETS, **words):
    return artifacts.run(**refining(TEXTS, targets, settings, 0, ensemble=trained, workers=1, **words))


@pytest.mark.parametrize("calibrated", [True, False])
def test_each_member_comes_nearer_to_its_own_targets(trained, settings, calibrated):
    """The squared error on the rows falls to a part; in the units that the ensemble's rewards have, calibrated or raw."""
    own = Section({**settings, "calibrated": calibrated})
    made = again(trained, own)
    before, after = (((rewards_of(each, own) - TARGETS) ** 2).mean(1) for each in (trained, made))
    assert (after < 0.5 * before).all()
    swapped = ((rewards_of(made, own) - TARGETS[::-1]) ** 2).mean(1)
    assert (after < swapped).all()  # member 0 did not learn member 1's


def test_the_first_loss_is_the_squared_error_before(trained, settings):
    """One batch of all rows: before any step, the loss is the mean of (R - r)^2 of the rewards that the ensemble gives."""
    own = Section({**settings, "batch_size": 8, "epochs": 1})
    made = again(trained, own)
    expected = ((rewards_of(trained, own) - TARGETS) ** 2).mean(1)
    first = [history.loss[0] for history in RewardEnsemble(made, own).histories]
    assert np.allclose(first, expected, rtol=1e-5)
    assert [len(history.loss) for history in RewardEnsemble(made, own).histories] == [1, 1]


def test_a_rate_of_zero_changes_nothing_and_the_scale_stays(trained, settings):
    still = again(trained, Section({**settings, "learning_rate": 0.0}))
    assert np.allclose(rewards_of(still, settings), rewards_of(trained, settings), rtol=0, atol=1e-6)
    moved = again(trained, settings)
    for each in (still, moved):
        assert json.loads((each / "ensemble.json").read_text()) == json.loads((trained / "ensemble.json").read_text())


def test_only_adapter_and_head_learn_and_peft_reads_the_folder(trained, settings, folder):  # noqa: F811
    made = again(trained, settings)
    model = load_model(str(folder), task="reward", device="cpu")
    before = model.model.embed_tokens.weight.clone()
    adapted = load_adapters(model, RewardEnsemble(made, settings).folders)
    assert torch.equal(before, adapted.get_base_model().model.embed_tokens.weight)
    files = {each.name for each in (made / "member_0").iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors", "history.json"}


def test_rows_at_a_time_are_the_same_gradient(folder):  # noqa: F811
    """Parts of a batch, weighted by their sizes, are the batch: 8 rows at once, and 3, 3 and 2."""
    rows = [[turns, text, float(target)] for (turns, text), target in zip(TEXTS, TARGETS[0], strict=True)]
    found = []
    for parts in (None, 3):
        own = Section({**SETTINGS, "batch_size": 8, "pairs_per_forward": parts, "epochs": 2})
        model = load_model(str(folder), task="reward", device="cpu")
        record = refine(model, module.load_tokenizer(str(folder)), rows, own, 0)
        found.append(record["loss"] + record["gradient_norm"])
    assert np.allclose(*found, rtol=1e-4)


def test_rescaled_rewards_are_the_same_order_with_mean_0_and_sd_1(trained, settings):
    """On the reference answers; raw rewards are those of before to the bit, since only mean and SD are written anew."""
    own, texts = Section({**settings, "calibrated": True}), TEXTS[:5]
    refined = again(trained, own)
    reference = [turns for turns, _ in texts], [[text] for _, text in texts]
    made = artifacts.run(**module.rescaling(refined, reference, own))
    found = rewards_of(made, own, texts)
    assert found.mean(1) == pytest.approx(0, abs=1e-6) and found.std(1) == pytest.approx(1)
    assert abs(rewards_of(refined, own, texts).std(1) - 1).max() > 0.01
    raw = Section({**settings, "calibrated": False})
    assert np.array_equal(rewards_of(made, raw), rewards_of(refined, raw))
    assert np.argsort(rewards_of(made, own)).tolist() == np.argsort(rewards_of(refined, own)).tolist()


def test_the_same_call_is_found_and_a_killed_run_goes_on_behind_the_last_member(trained, settings, monkeypatch):
    own = Section({**settings, "learning_rate": 0.02})
    plain, asked = module.refine, []

    def killed(*args, **words):
        asked.append(args)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return plain(*args, **words)

    monkeypatch.setattr(module, "refine", killed)
    with pytest.raises(KeyboardInterrupt):
        again(trained, own)
    monkeypatch.setattr(module, "refine", plain)
    artifacts.HISTORY.clear()
    made = again(trained, own)
    assert [line["cached"] for line in artifacts.HISTORY if line["step"].endswith("refine_member")] == [True, False]
    assert again(trained, own).path == made.path


def test_bad_input_is_named(trained, settings):
    call = {"ensemble": trained, "workers": 1}
    with pytest.raises(DataError, match="no samples to refine on"):
        refining([], np.zeros((2, 0)), settings, 0, **call)
    with pytest.raises(DataError, match=r"targets of shape \(3, 8\) for 2 members and 8 samples"):
        refining(TEXTS, np.zeros((3, 8)), settings, 0, **call)
    wrong = TARGETS.copy()
    wrong[1, 5] = np.nan
    with pytest.raises(DataError, match="member 1, sample 5: 1 targets are not finite"):
        refining(TEXTS, wrong, settings, 0, **call)
