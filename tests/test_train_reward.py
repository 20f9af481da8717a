"""Reward training: a known reward is recovered, runs repeat bit for bit, and a bad batch stops it by name."""

import json
import math

import numpy as np
import pytest
import torch

from repro.core.errors import DataError, SettingsError
from repro.core.settings import Section
from repro.data.schema import Pair
from repro.models.heads import HeadConfig, RewardHead, load_head, save_head
from repro.train.loop import train_bradley_terry
from repro.train.pairs import (
    balance_length,
    longer_share,
    prompt_folds,
    sample_pairs,
    shuffle_labels,
    with_longer_share,
)
from repro.train.reward import conversation_text, train_head

SETTINGS = {"head": "linear", "hidden": 16, "dropout": 0.0, "l2": [0.01], "validation_folds": 5, "learning_rate": 0.02}
SETTINGS |= {"batch_size": 64, "pairs_per_forward": None, "epochs": 10, "warmup_ratio": 0.03, "weight_decay": 0.0}
SETTINGS |= {"max_gradient_norm": None}


def world(pairs=1000, width=8, seed=0, prompt_decides=False):
    """Features whose reward is known: the first axis, or its product with the prompt's first axis; labels are exact."""
    generator = torch.Generator().manual_seed(seed)
    one, other, asked = torch.randn(3, pairs, width, generator=generator)
    sign = asked[:, 0].sign() if prompt_decides else torch.ones(pairs)
    wins = ((one[:, 0] - other[:, 0]) * sign > 0).unsqueeze(1)
    return torch.where(wins, one, other), torch.where(wins, other, one), asked, [f"p{place}" for place in range(pairs)]


def accuracy(head, chosen, rejected, asked=None):
    with torch.no_grad():
        return (head(chosen, asked) > head(rejected, asked)).double().mean().item()


def train(chosen, rejected, names, seed=0, prompts=None, **changes):
    return train_head(chosen, rejected, names, Section(SETTINGS | changes), seed, prompts=prompts)


def test_a_known_reward_is_recovered():
    chosen, rejected, _, names = world()
    head, history = train(chosen, rejected, names)
    weight = head.layers.weight[0].detach()
    assert weight[0] / weight.norm() > 0.97
    fresh_chosen, fresh_rejected, _, _ = world(seed=1)
    assert accuracy(head, fresh_chosen, fresh_rejected) > 0.93
    assert history.loss[0] == pytest.approx(math.log(2), abs=1e-6)  # a zero head prefers nothing


def test_only_a_head_that_reads_the_prompt_learns_what_the_prompt_decides():
    chosen, rejected, asked, names = world(2000, prompt_decides=True)
    fresh = world(seed=1, prompt_decides=True)
    blind, _ = train(chosen, rejected, names)
    sees, _ = train(chosen, rejected, names, prompts=asked, head="mlp", hidden=32, l2=[0.0], epochs=30)
    assert abs(accuracy(blind, *fresh[:2]) - 0.5) < 0.06
    assert accuracy(sees, *fresh[:3]) > 0.8


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_two_runs_are_equal_bit_for_bit_and_seeds_differ(head):
    chosen, rejected, asked, names = world(300)
    options = {"head": head, "dropout": 0.3, "epochs": 3, "prompts": asked if head == "mlp" else None}
    first, second, other = (train(chosen, rejected, names, seed=seed, **options) for seed in (3, 3, 4))
    for name, value in first[0].state_dict().items():
        assert torch.equal(value, second[0].state_dict()[name])
    assert first[1] == second[1]
    assert first[1].loss != other[1].loss


def test_training_leaves_the_callers_random_state_alone():
    chosen, rejected, _, names = world(100)
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    train(chosen, rejected, names, epochs=1)
    assert torch.equal(torch.rand(1), expected)


def test_the_record_of_every_step():
    """80 training pairs in batches of 16, 4 epochs: 20 steps, warm-up ceil(0.1 x 20) = 2, then half a cosine to 0."""
    chosen, rejected, _, names = world(100)
    _, history = train(chosen, rejected, names, batch_size=16, epochs=4, warmup_ratio=0.1)
    cosine = [0.02 * (1 + math.cos(math.pi * (step - 2) / 18)) / 2 for step in range(2, 20)]
    assert history.learning_rate == pytest.approx([0.0, 0.01, *cosine])
    assert len(history.loss) == len(history.gradient_norm) == 20
    assert len(history.validation_loss) == 4
    assert history.best_epoch == int(np.argmin(history.validation_loss))


def test_parts_of_a_batch_give_the_whole_batchs_gradient():
    """Seven pairs at a time do not divide 16: the last part is smaller and must weigh less."""
    chosen, rejected, _, names = world(100)
    whole = train(chosen, rejected, names, batch_size=16, epochs=2)[0].layers.weight
    parts = train(chosen, rejected, names, batch_size=16, epochs=2, pairs_per_forward=7)[0].layers.weight
    assert torch.allclose(whole, parts, atol=1e-5)


def test_validation_keeps_the_penalty_that_generalises():
    """Labels that are noise: the strongest penalty loses least on validation prompts."""
    chosen, rejected, _, names = world(200, width=100, seed=2)
    flips = (torch.rand(200, 1, generator=torch.Generator().manual_seed(0)) < 0.5).expand(-1, 100)
    chosen, rejected = torch.where(flips, rejected, chosen), torch.where(flips, chosen, rejected)
    _, history = train(chosen, rejected, names, l2=[0.0, 10.0], epochs=20)
    assert history.l2 == 10.0


def test_the_ridge_solution_is_scikit_learns():
    """Mean loss + l2/2 |w|² on differences is scikit-learn's logistic regression with C = 1 / (l2 x pairs)."""
    from sklearn.linear_model import LogisticRegression

    chosen, rejected, _, _ = world(500, seed=4)
    head = RewardHead(HeadConfig("linear", 8))

    def scores(batch):
        return head(chosen[batch]), head(rejected[batch])

    settings = Section(SETTINGS | {"batch_size": 500, "epochs": 2000, "learning_rate": 0.05})
    train_bradley_terry(head, scores, torch.arange(500), torch.arange(0), settings, seed=0, l2=0.05)
    difference = (chosen - rejected).numpy()
    rows, labels = np.vstack([difference, -difference]), np.repeat([1, 0], 500)
    oracle = LogisticRegression(C=1 / (0.05 * 1000), fit_intercept=False, tol=1e-10).fit(rows, labels).coef_[0]
    assert head.layers.weight[0].detach().numpy() == pytest.approx(oracle, abs=2e-3)


def test_a_loss_that_is_not_finite_names_step_and_pairs():
    chosen, rejected, _, _ = world(100)
    head = RewardHead(HeadConfig("linear", 8))

    def scores(batch):
        return head(chosen[batch]) * (math.nan if 17 in batch else 1), head(rejected[batch])

    with pytest.raises(DataError, match=r"step \d+, pairs \[.*17.*\]") as error:
        train_bradley_terry(
            head, scores, torch.arange(100), torch.arange(0), Section(SETTINGS | {"batch_size": 8}), seed=0
        )
    assert "learning_rate" in str(error.value)


def test_a_head_is_saved_whole(tmp_path):
    chosen, rejected, asked, names = world(100)
    head, _ = train(chosen, rejected, names, prompts=asked, head="mlp", epochs=1)
    save_head(head, tmp_path)
    with torch.no_grad():
        assert torch.equal(load_head(tmp_path)(chosen, asked), head(chosen, asked))
    (tmp_path / "head.json").write_text(json.dumps({"kind": "mlp", "width": 9, "hidden": 16}))
    with pytest.raises(DataError, match="no usable reward head"):
        load_head(tmp_path)
    with pytest.raises(DataError, match="for a head of width 8"):
        head(chosen[:, :5], asked)
    with pytest.raises(DataError, match="reads the prompt"):
        head(chosen)
    with pytest.raises(SettingsError, match="unknown head"):
        HeadConfig("forest", 8)


def pairs_of(lengths):
    return [
        Pair((("user", f"q{place // 2}"),), "c" * one, "r" * other, "here")
        for place, (one, other) in enumerate(lengths)
    ]


def test_balancing_by_hand():
    """Five longer winners, two shorter, one equal: two and two are kept, nothing is relabelled or repeated."""
    pairs = pairs_of([(9, 1), (8, 1), (7, 1), (6, 1), (5, 1), (1, 9), (2, 9), (4, 4)])
    assert longer_share(pairs) == 5 / 7
    kept = balance_length(pairs, seed=0)
    assert len(kept) == 4 and longer_share(kept) == 0.5
    assert set(kept) <= set(pairs) and len(set(kept)) == 4
    assert kept == balance_length(pairs, seed=0) != balance_length(pairs, seed=1)
    assert longer_share(with_longer_share(pairs, 0.75, 4, seed=0)) == 0.75
    with pytest.raises(DataError, match="5 longer and 2 shorter"):
        with_longer_share(pairs, 0.0, 3, seed=0)
    with pytest.raises(DataError, match="no pair differs"):
        longer_share(pairs[-1:])


def test_shuffling_keeps_the_pairs_and_loses_the_labels():
    pairs = pairs_of([(9, 1)] * 2000)
    shuffled = shuffle_labels(pairs, seed=0)
    assert [{p.chosen, p.rejected} for p in shuffled] == [{p.chosen, p.rejected} for p in pairs]
    assert [p.prompt for p in shuffled] == [p.prompt for p in pairs]
    assert abs(longer_share(shuffled) - 0.5) < 0.04
    assert shuffled == shuffle_labels(pairs, seed=0) != shuffle_labels(pairs, seed=1)


def test_folds_never_split_a_prompt():
    names = [f"p{place % 23}" for place in range(100)]
    folds = prompt_folds(names, 5, seed=0)
    assert all(len(set(folds[[n == name for n in names]])) == 1 for name in set(names))
    assert sorted(len({n for n, f in zip(names, folds, strict=True) if f == fold}) for fold in range(5)) == [
        4,
        4,
        5,
        5,
        5,
    ]
    with pytest.raises(DataError, match="3 prompts for 5 folds"):
        prompt_folds(["a", "b", "c", "c"], 5, seed=0)


def test_sampling_keeps_order_and_everything_when_asked_for_more():
    pairs = pairs_of([(place + 1, 1) for place in range(20)])
    sample = sample_pairs(pairs, 7, seed=0)
    assert len(sample) == 7 and sample == sorted(sample, key=pairs.index)
    assert sample_pairs(pairs, None, seed=0) == sample_pairs(pairs, 99, seed=0) == pairs


def test_a_conversation_reads_as_one_text():
    assert conversation_text((("user", "Hi"), ("assistant", "Yes?"))) == "user: Hi\n\nassistant: Yes?"
