"""UGDA on real text: made-up answers that say what they are worth, so that every stage can be seen to do its work."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from repro.core import inventory, settings
from repro.core.errors import DataError
from repro.data import Pair, alpaca_eval
from repro.models.features import FeatureTable
from repro.models.heads import HeadConfig, RewardHead
from repro.objectives.bradley_terry import bradley_terry_loss
from repro.papers import real_pool, real_refinement
from repro.papers.best_of_n import JudgedPool
from repro.papers.length_bias import AnswerPool
from repro.papers.real_pool import (
    ANSWERS,
    BASELINE,
    CHOSEN,
    DIRECT,
    ORDER,
    PEOPLE,
    REJECTED,
    TEST,
    TESTS,
    VALIDATION,
    Texts,
)
from repro.papers.real_refinement import ARMS, BEFORE, LONGER, Heads
from repro.papers.reward_models import BEYOND, HARMLESS, HELPFUL, RealText
from repro.papers.ugda_methods import BOTH, INFLUENCE, RANDOM, UNCERTAINTY, Method, chosen
from repro.train.loop import History
from repro.train.reward import EncodedTexts, RewardModel

WIDTH, PROMPTS, CUTS = 4, 24, [1.0e-6, 1.0e-5, 1.0e-4, 1.0e-2]
PREFERENCE = {"weak": 5.0e-7, "middle": 5.0e-5, "strong": 0.9}  # levels 1, 3 and 5
WORTH = {"weak": -2, "middle": 0, "strong": 2, alpaca_eval.BASELINE: 1}


def encoded(texts):
    """Features whose first place is the number that a text ends on; small noise behind."""
    texts = sorted(set(texts))
    values = np.random.default_rng(0).normal(0, 0.1, (len(texts), WIDTH)).astype(np.float32)
    values[:, 0] = [float(text.rsplit(" ", 1)[1]) for text in texts]
    place = {text: row for row, text in enumerate(texts)}
    return EncodedTexts(FeatureTable(values, np.ones(len(texts)), 8, place, None), None)


def pairs(name, count, shared=0):
    """Pairs whose chosen answer is worth more; the first `shared` begin with a prompt of the pool."""
    asked = [f"Ask {k}" if k < shared else f"{name} {k}" for k in range(count)]
    return [Pair((("user", each),), f"{each} good 1", f"{each} bad -1", name) for each in asked]


@pytest.fixture
def text():
    found = {BEYOND: pairs("beyond", 40, 3), HELPFUL: pairs("helpful", 30, 2), HARMLESS: pairs("harmless", 20)}
    sides = [side for own in found.values() for pair in own for side in (pair.chosen, pair.rejected)]
    return RealText(found, encoded(sides), {})


@pytest.fixture
def found(text, monkeypatch):
    """24 prompts, three judged models and the baseline; to the last prompt one model gave no answer."""
    said = [[f"{name} {k} {worth}" for name, worth in WORTH.items()] for k in range(PROMPTS)]
    said[-1][1] = None
    judged = JudgedPool(
        list(PREFERENCE), np.tile([100 * value for value in PREFERENCE.values()], (PROMPTS, 1)), [0, 1, 2]
    )
    monkeypatch.setattr(real_pool, "judged_pool", lambda pool: judged)
    turns = [(("user", f"ask  {k}"),) for k in range(PROMPTS)]
    texts = encoded([each for row in said for each in row if each])
    pool = AnswerPool(list(WORTH), turns, list(range(PROMPTS)), {}, said, texts, frozenset())
    return real_pool.put_together(text, pool, CUTS, 5)


def head(*weights):
    made = RewardHead(HeadConfig("linear", WIDTH))
    made.layers.weight.data = torch.tensor([[*weights, *[0.0] * (WIDTH - len(weights))]])
    return made.eval()


@pytest.fixture
def rules():
    changes = {"gain_samples": 10, "members": 2, "gamma": 0.5, "eta": 0.5}
    return settings.load("laptop", changes, "p3_03_ugda").section("p3_03_ugda")


@pytest.fixture
def encoder():
    changes = {
        "head": "linear",
        "hidden": 0,
        "epochs": 12,
        "learning_rate": 0.3,
        "weight_decay": 0.0,
        "batch_size": 16,
        "max_gradient_norm": None,
    }
    return settings.load("laptop", changes, "p2_02_reward_models").section("p2_02_reward_models")


def test_no_conversation_of_the_pool_is_trained_or_tested_on(found):
    """3 of 40, 2 of 30 and none of 20 pairs begin alike, whatever case and spacing; a fifth of the rest validates."""
    assert len(found.training) == 37 and not any(pair.prompt[0][1].startswith("Ask") for pair in found.training)
    parts = {name: [len(found.lengths[f"{name} {part} {CHOSEN}"]) for part in (VALIDATION, TEST)] for name in PEOPLE}
    assert parts[HARMLESS] == [4, 16] and sorted(parts[HELPFUL]) in ([5, 23], [6, 22])
    assert [len(found.prompts[test]) for test in TESTS] == [23, 23, parts[HELPFUL][1], 16]
    rows = {name: (each["rows"], sum(each["set_aside"].values())) for name, each in found.tallies.items()}
    assert rows["hh-rlhf, not used"] == (0, 5) and rows["alpaca_eval, answers with a preference"] == (69, 3)


def test_levels_begin_at_the_cuts(found):
    assert found.levels.tolist() == [[1, 3, 5]] * 23
    assert (1 + np.searchsorted(CUTS, [0.0, 1.0e-6, 0.01, 1.0], side="right")).tolist() == [1, 2, 5, 5]


def test_outcomes_by_hand(found):
    """Worth puts all three pairs of models right; with the baseline at 1 the strong one is above it, the others below."""
    scores = {name: texts.answers[:, 0].numpy() for name, texts in found.features.items()}
    pooled = np.arange(23) < 5
    right, wrong = (found.outcomes({k: sign * v for k, v in scores.items()}, pooled) for sign in (1, -1))
    for test in (ORDER, DIRECT):
        assert np.isnan(right[test][:5]).all() and (right[test][5:] == 1).all() and (wrong[test][5:] == 0).all()
    assert all((right[test] == 1).all() and (wrong[test] == 0).all() for test in PEOPLE.values())
    equal = found.outcomes({name: 0 * each for name, each in scores.items()}, pooled)
    assert equal[ORDER][9] == equal[DIRECT][9] == 0.5
    scores[BASELINE][:] = 9  # the strong model, which GPT-4 prefers, is now below the baseline
    assert found.outcomes(scores, pooled)[DIRECT][9] == pytest.approx(2 / 3)


def test_the_writers_alone_order_what_they_always_write(found):
    """Every model has one level throughout, so its mean level orders all; the baseline beats two models of three."""
    pooled = np.arange(23) < 5
    nulls = found.nulls(pooled)
    assert all(np.isnan(values[:5]).all() for values in nulls.values())
    assert (nulls[ORDER][5:] == 1).all() and nulls[DIRECT][5:] == pytest.approx(2 / 3)
    odd = replace(found, levels=np.where(pooled[:, None], found.levels[:, ::-1], found.levels))
    assert (odd.nulls(pooled)[ORDER][5:] == 0).all()  # the pool's own levels are what is known


def test_every_method_relabels_as_many(rules):
    rewards = np.stack([np.zeros(40), np.arange(40.0)])  # variance grows with the place
    scores = np.stack([-np.arange(40.0), np.full(40, -100.0)], 1)  # and influence falls
    taken = {name: chosen(each, rewards, scores, rules, 1).places for name, each in ARMS.items()}
    assert {name: len(each) for name, each in taken.items()} == dict.fromkeys(ARMS, 10) | {"all labelled": 40}
    assert taken["UGDA(UN)"].tolist() == [*range(30, 40)] and taken["UGDA(GR)"].tolist() == [*range(10)]
    assert taken["UGDA"].tolist() == [*range(20, 30)]
    assert taken["own labels"].tolist() == taken["UGDA(RA)"].tolist()
    assert taken["UGDA(RA)"].tolist() != chosen(Method(RANDOM), rewards, scores, rules, 2).places.tolist()
    assert [ARMS[name].selection for name in ("UGDA(UN)", "UGDA(GR)", "UGDA")] == [UNCERTAINTY, INFLUENCE, BOTH]


def test_influence_is_the_cosine_with_the_mean_chosen_answer(found, rules):
    """Of a linear head -r has the gradient -x, whatever the weights."""
    pool = found.features[ANSWERS]
    ensemble = Heads([head(1.0), head(-3.0, 2.0)], np.array([[0.0, 1.0]] * 2))
    scores = real_refinement.influence(ensemble, pool, found, rules)
    mean = found.features[f"{HARMLESS} {VALIDATION} {CHOSEN}"].answers.mean(0)
    expected = torch.nn.functional.cosine_similarity(pool.answers, mean[None])
    assert scores.shape == (69, 2) and scores[:, 1] == pytest.approx(expected.numpy(), abs=1e-5)
    assert scores[2, 1] > 0.8 and scores[0, 1] < -0.8  # a strong model's answer, and a weak one's


def test_a_gain_is_what_one_small_step_does(found):
    """Finite differences: a plain gradient step of rate 1e-3 on one sample's squared error, twice, on two samples."""
    samples = found.features[ANSWERS].of(np.array([0, 4]))
    own, targets, rate = head(0.3, -0.2), np.array([[0.5, -2.0]]), 1.0e-3
    scale = np.array([[0.2, 1.7]])
    gains = real_refinement.gains(Heads([own], scale), samples, targets, found)

    def loss(weights):
        one = head(*weights)
        sides = [[found.features[f"{name} {VALIDATION} {side}"] for side in (CHOSEN, REJECTED)] for name in PEOPLE]
        return sum(bradley_terry_loss(*(texts.rewards(one) for texts in both)) for both in sides).item() / 2

    for k in range(2):
        weights = own.layers.weight.detach().clone().requires_grad_()
        reward = (samples.answers[k] @ weights[0] - 0.2) / 1.7
        (slope,) = torch.autograd.grad((targets[0, k] - reward).square(), weights)
        before, after = (loss((weights - step * slope).detach()[0].tolist()) for step in (0.0, rate))
        assert gains[k] == pytest.approx((before - after) / rate, rel=0.02)


def test_refining_reaches_its_targets_and_leaves_the_first_ensemble(found, encoder):
    samples, first = found.features[ANSWERS], Heads([head(-1.0), head(0.0, 1.0)], np.array([[0.0, 2.0], [1.0, 0.5]]))
    before = first.rewards(samples)
    targets = np.stack([samples.answers[:, 0].numpy() * scale for scale in (0.5, 0.2)])
    better = real_refinement.refined(first, samples, targets, encoder, 0)
    errors = [np.square(rewards - targets).mean(1) for rewards in (before, better.rewards(samples))]
    # no bias: a linear head cannot make up for the mean that the scale takes off, here 1 / 0.5
    assert errors[1][0] < 0.05 * errors[0][0] and errors[1][1] < errors[0][1]
    assert first.rewards(samples) == pytest.approx(before)
    again = real_refinement.refined(first, samples, targets, encoder, 0)
    assert again.rewards(samples) == pytest.approx(better.rewards(samples), abs=0)


@pytest.fixture
def wrong_start(monkeypatch):
    """Reward models that have learnt the opposite of worth, each a little differently; the seeds that they were asked for."""
    seeds = []

    def model(pairs, texts, settings, seed):
        seeds.append(seed)
        return RewardModel(head(-1.0, 0.1 * seed, 0.2), History())

    monkeypatch.setattr(real_refinement, "reward_model", model)
    return seeds


def test_true_labels_mend_what_own_labels_keep(found, encoder, rules, wrong_start):
    own = settings.load("smoke", {"real_draws": 2}, "p3_05_reward_models").section("p3_05_reward_models")
    study = real_refinement.study(found, own, encoder, rules, [0])
    assert wrong_start == [0, 1, 2, 3]
    for test in TESTS:
        assert study.accuracy(BEFORE, test).value == 0 and study.accuracy("own labels", test).value < 10
        assert study.accuracy("all labelled", test).value > 95
    assert study.gain("all labelled", ORDER).value == pytest.approx(study.accuracy("all labelled", ORDER).value)
    assert set(study.evidence()) == set(inventory.claims()["p3.c8"]["courts"]["real text"])
    for each in study.draws:  # what is relabelled is never judged, and every prompt is the one or the other
        pooled = np.isnan(each.outcomes[LONGER][ORDER])
        assert pooled[found.groups[each.inside]].all() and len(each.inside) == 3 * pooled.sum()
        assert all(np.isin(places, each.inside).all() for places in each.places.values())
    halves = [np.isnan(each.outcomes[BEFORE][ORDER]) for each in study.draws]
    assert (halves[0] != halves[1]).any()
    tables = study.accuracy_records(), study.gain_records(), study.selection_records(), study.contrast_records(1.0)
    assert [len(rows) for rows in tables] == [34, 24, 3, 36]


def test_an_ensemble_that_says_the_same_of_all_is_named(found, encoder, monkeypatch):
    monkeypatch.setattr(
        real_refinement,
        "reward_model",
        lambda pairs, texts, settings, seed: RewardModel(head(float(seed != 1)), History()),
    )
    with pytest.raises(DataError, match="member 1"):
        real_refinement.trained(found, found.features[ANSWERS], encoder, 3, 0)


def test_a_head_that_reads_the_prompt_gets_it():
    made = RewardHead(HeadConfig("mlp", 2, hidden=3)).eval()
    texts = Texts(torch.randn(5, 2), torch.randn(5, 2))
    losses = real_refinement.negative_rewards(made, texts.of(np.array([3, 1])).rows())
    assert losses.tolist() == pytest.approx((-texts.rewards(made)[[3, 1]]).tolist())
