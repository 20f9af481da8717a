"""Influence by hand, its two averages apart, and both laws it rests on: first order, and leaving one sample out."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from repro.core.errors import DataError, SettingsError
from repro.objectives.influence import (
    adam_influence,
    cosines,
    loss_change,
    mean_gradient,
    reference,
    subtask_influence,
    trajectory_influence,
)


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_hand_arithmetic():
    """Rates 0.1 and 0.2; cosines 3/5 and -1: 0.06 - 0.2 under Adam. Products 6 and -2: 0.6 - 0.4 under SGD."""
    sample = double([[3.0, 4.0]], [[0.0, 1.0]])
    validation = double([[2.0, 0.0]], [[0.0, -2.0]])
    rates = double(0.1, 0.2)
    assert adam_influence(sample, validation, rates).item() == pytest.approx(0.1 * 0.6 - 0.2)
    assert trajectory_influence(sample, validation, rates).item() == pytest.approx(0.6 - 0.4)


def test_the_two_averages_differ_where_gradients_differ_in_length():
    """(3, 0) and (0, 1): their mean has the cosine 3/sqrt(10) with (1, 0); the cosines 1 and 0 average 0.5."""
    subtask, sample = double([[3.0, 0.0], [0.0, 1.0]]), double([[1.0, 0.0]])
    printed = subtask_influence(sample, [subtask], double(1.0))
    less = subtask_influence(sample, [subtask], double(1.0), "cosines")
    assert printed.item() == pytest.approx(3 / math.sqrt(10)) and less.item() == pytest.approx(0.5)


def test_averages_from_their_definitions():
    """p3.eq10 and p3.eq11 written out with torch's own cosine; LESS's is the mean of p3.eq7 over the subtask."""
    directions, rates = draws(3, 5, 20), double(0.3, 0.2, 0.1)
    subtasks = [draws(3, 4, 20, seed=1), draws(3, 7, 20, seed=2)]
    for average in ("gradients", "cosines"):
        found = subtask_influence(directions, subtasks, rates, average)
        for j, subtask in enumerate(subtasks):
            if average == "gradients":
                parts = torch.cosine_similarity(directions, subtask.mean(1, keepdim=True), dim=-1)
                expected = (rates[:, None] * parts).sum(0)
            else:
                expected = adam_influence(directions, subtask, rates).mean(1)
            torch.testing.assert_close(found[:, j], expected)


def test_scores_ignore_lengths_of_directions_and_reach_the_sum_of_rates():
    directions, subtask, rates = draws(2, 4, 9), draws(2, 3, 9, seed=1), double(0.2, 0.1)
    lengths = draws(2, 4, 1, seed=2).abs() + 0.1
    found = subtask_influence(directions, [subtask], rates)
    torch.testing.assert_close(subtask_influence(directions * lengths, [subtask], rates), found)
    best = subtask_influence(subtask.mean(1, keepdim=True), [subtask], rates)
    assert best.item() == pytest.approx(0.3) and found.abs().max() < 0.3


def test_a_direction_of_zeros_scores_nothing():
    assert cosines(torch.zeros(1, 3), torch.ones(2, 3)).tolist() == [[0.0, 0.0]]
    found = subtask_influence(torch.zeros(2, 1, 3), [torch.ones(2, 1, 3)], torch.ones(2))
    assert found.tolist() == [[0.0]]


def linear(rows=40, features=5, seed=0):
    """A least-squares problem: (x, y) to train on, (x, y) to validate on."""
    x, truth = draws(rows + 10, features, seed=seed), draws(features, seed=seed + 1)
    y = x @ truth + 0.5 * draws(rows + 10, seed=seed + 2)
    return x[:rows], y[:rows], x[rows:], y[rows:]


def gradients(weights, x, y):
    """∇ of (x w - y)² / 2 of each row, (rows, features)."""
    return (x @ weights - y)[:, None] * x


def loss(weights, x, y):
    return 0.5 * (x @ weights - y).square().mean()


@pytest.mark.parametrize("rate", [1e-2, 1e-3, 1e-4])
def test_the_first_order_change_of_a_linear_model_is_off_by_the_square_of_the_rate(rate):
    x, y, x_val, y_val = linear()
    start = draws(5, seed=9)
    update = -rate * gradients(start, x[:1], y[:1])[0]
    change = loss(start + update, x_val, y_val) - loss(start, x_val, y_val)
    expected = loss_change(gradients(start, x_val, y_val).mean(0), update)
    curvature = 0.5 * (x_val @ update).square().mean()  # the loss is quadratic: this is all that is left
    assert (change - expected).item() == pytest.approx(curvature.item(), rel=1e-6)
    assert abs((change - expected) / expected) < 100 * rate


def trained(x, y, left_out=None, epochs=4, rate=2e-3):
    """Weights after SGD one row at a time, one row left out; and the weights each row met, (epochs, rows, features)."""
    weights, met = torch.zeros(x.shape[1], dtype=torch.float64), []
    for _ in range(epochs):
        met.append([])
        for row in range(len(x)):
            met[-1].append(weights)
            if row != left_out:
                weights = weights - rate * gradients(weights, x[row : row + 1], y[row : row + 1])[0]
    return weights, torch.stack([torch.stack(epoch) for epoch in met])


def test_influence_is_what_leaving_a_sample_out_costs():
    """p3.eq5 with the weights each sample met against training again without it: same order, same size."""
    x, y, x_val, y_val = linear()
    rate, epochs = 2e-3, 4
    weights, met = trained(x, y, rate=rate, epochs=epochs)
    own = torch.stack(
        [torch.stack([gradients(met[e, i], x[[i]], y[[i]])[0] for i in range(len(x))]) for e in range(epochs)]
    )
    exact, epochwise = torch.zeros(len(x)), None
    for i in range(len(x)):
        validation = torch.stack([gradients(met[e, i], x_val, y_val) for e in range(epochs)])
        exact[i] = trajectory_influence(own[:, [i]], validation, torch.full((epochs,), rate).double()).mean()
    starts = torch.stack([gradients(met[e, 0], x, y) for e in range(epochs)])
    validation = torch.stack([gradients(met[e, 0], x_val, y_val) for e in range(epochs)])
    epochwise = trajectory_influence(starts, validation, torch.full((epochs,), rate).double()).mean(1)
    left_out = [(loss(trained(x, y, i)[0], x_val, y_val) - loss(weights, x_val, y_val)).item() for i in range(len(x))]
    for scores in (exact, epochwise):  # a checkpoint a step, and a checkpoint an epoch as the paper has it
        assert spearmanr(scores.numpy(), left_out).statistic > 0.98
        assert np.polyfit(scores.numpy(), left_out, 1)[0] == pytest.approx(1.0, abs=0.4)


class TestBadInput:
    def test_an_empty_subtask(self):
        with pytest.raises(DataError, match="subtask"):
            mean_gradient(torch.empty(0, 3))
        with pytest.raises(DataError, match="no validation subtask"):
            subtask_influence(torch.ones(1, 2, 3), [], torch.ones(1))

    def test_an_unknown_average(self):
        with pytest.raises(SettingsError, match="gradients, cosines"):
            reference(torch.ones(2, 3), "mean")

    def test_checkpoints_that_do_not_match(self):
        with pytest.raises(DataError, match="shapes"):
            adam_influence(torch.ones(2, 1, 3), torch.ones(3, 1, 3), torch.ones(2))

    @pytest.mark.parametrize("rate", [-0.1, math.nan])
    def test_a_rate_that_is_none(self, rate):
        with pytest.raises(DataError, match="learning rate"):
            adam_influence(torch.ones(1, 1, 3), torch.ones(1, 1, 3), torch.tensor([rate]))

    def test_vectors_over_other_weights(self):
        with pytest.raises(DataError, match="same weights"):
            loss_change(torch.ones(3), torch.ones(4))
