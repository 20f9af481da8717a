"""Length bias: hand arithmetic, numpy's corrcoef, known correlations, invariances, and what is set aside."""

import numpy as np
import pytest

from repro.core.errors import DataError
from repro.evaluate.length_bias import length_correlations, length_heatmap, mean_by_length


def test_hand_example():
    """Rewards 1 2 3 and lengths 10 30 20: deviations -1 0 1 and -10 10 0, so r = 10 / sqrt(2 x 200) = 0.5."""
    bias = length_correlations([[1, 2, 3]], [[10, 30, 20]])
    assert bias.correlation[0] == pytest.approx(0.5)
    assert bias.mean_length[0] == 20
    assert bias.set_aside == 0


def test_equals_corrcoef():
    rng = np.random.default_rng(0)
    rewards, lengths = rng.normal(size=(50, 16)), rng.integers(1, 500, size=(50, 16))
    expected = [np.corrcoef(r, length)[0, 1] for r, length in zip(rewards, lengths, strict=True)]
    assert length_correlations(rewards, lengths).correlation == pytest.approx(np.array(expected), abs=1e-13)


def test_missing_responses_are_ignored():
    rng = np.random.default_rng(1)
    rewards, lengths = rng.normal(size=(1, 10)), rng.normal(100, 20, size=(1, 10))
    rewards[0, [2, 7]] = lengths[0, [2, 7]] = np.nan
    kept = np.isfinite(rewards[0])
    bias = length_correlations(rewards, lengths)
    assert bias.correlation[0] == pytest.approx(np.corrcoef(rewards[0, kept], lengths[0, kept])[0, 1])
    assert bias.mean_length[0] == pytest.approx(lengths[0, kept].mean())


def test_affine_transforms_of_reward_change_nothing_but_the_sign():
    rng = np.random.default_rng(2)
    rewards, lengths = rng.normal(size=(30, 8)), rng.integers(1, 2000, size=(30, 8))
    plain = length_correlations(rewards, lengths)
    for scale, shift in ((3.0, -100.0), (1e-9, 0.0), (1e200, 0.0)):
        assert length_correlations(scale * rewards + shift, lengths).correlation == pytest.approx(plain.correlation)
    assert length_correlations(-rewards, lengths).correlation == pytest.approx(-plain.correlation)
    assert length_correlations(rewards, 4 * lengths).correlation == pytest.approx(plain.correlation)
    assert plain.mean(seed=3) == length_correlations(2 * rewards, lengths).mean(seed=3)


def test_limits_are_one_and_minus_one():
    lengths = np.array([[1.0, 5.0, 9.0], [4.0, 2.0, 3.0]])
    assert length_correlations(0.001 * lengths, lengths).correlation == pytest.approx([1.0, 1.0])
    assert length_correlations(-lengths, lengths).correlation == pytest.approx([-1.0, -1.0])


@pytest.mark.parametrize("rho", [0.0, 0.19, 0.6])
def test_simulated_data_with_known_correlation(rho):
    """4,000 prompts x 8 responses: the mean is rho (1 - (1 - rho^2) / 16), and the interval's width is its error's."""
    rng = np.random.default_rng(int(100 * rho))
    lengths = rng.normal(size=(4000, 8))
    rewards = rho * lengths + np.sqrt(1 - rho**2) * rng.normal(size=(4000, 8))
    interval = length_correlations(rewards, 300 + 50 * lengths).mean()
    assert interval.value == pytest.approx(rho * (1 - (1 - rho**2) / 16), abs=0.02)
    error = length_correlations(rewards, lengths).correlation.std() / np.sqrt(4000)
    assert interval.half_width == pytest.approx(1.96 * error, rel=0.1)
    assert interval.n == 4000


def test_prompts_without_spread_are_set_aside_with_a_count():
    """0.1 + 0.2 three times has a variance that floats do not make zero; it is constant all the same."""
    nan = np.nan
    rewards = [[0.1 + 0.2] * 3, [1, 2, 3], [1, 2, 3], [1, nan, nan], [5, 5, 5], [4, nan, 4]]
    lengths = [[3, 4, 5], [7, 7, 7], [1, 3, 2], [9, nan, nan], [2, 2, 2], [1, nan, 2]]
    bias = length_correlations(rewards, lengths)
    assert (bias.too_few, bias.constant_length, bias.constant_reward, bias.set_aside) == (1, 2, 2, 5)
    assert np.isfinite(bias.correlation).tolist() == [False, False, True, False, False, False]
    assert (bias.mean().value, bias.mean().n) == (pytest.approx(0.5), 1)
    with pytest.raises(DataError, match="all 2 prompts"):
        length_correlations([[1, 1], [2, 2]], [[1, 2], [1, 2]]).mean()


def test_heatmap_counts_every_prompt_kept_once():
    """Means 50, 150, 5000 in bins 0-100-200: rows 1, 2 and, as longer, 2 again; r = 1 and -1 in the outer columns."""
    lengths = np.array([[40.0, 60], [140, 160], [4000, 6000], [5, 5]])
    bias = length_correlations([[1, 2], [2, 1], [1, 2], [1, 2]], lengths)
    heatmap = length_heatmap(bias, [0, 100, 200], [-1, 0, 1])
    assert heatmap.counts.tolist() == [[0, 1], [1, 1]]
    assert heatmap.longer == 1
    rng = np.random.default_rng(4)
    many = length_correlations(rng.normal(size=(500, 8)), rng.gamma(2, 300, size=(500, 8)))
    assert length_heatmap(many, np.arange(0, 1401, 100)).counts.sum() == 500


def test_a_mean_on_an_edge_belongs_to_the_bin_above_in_both():
    bias = length_correlations([[1, 2]], [[90, 110]])
    assert [interval is not None for interval in mean_by_length(bias, [0, 100, 200])] == [False, True]
    assert length_heatmap(bias, [0, 100, 200], [-1, 1]).counts.tolist() == [[0], [1]]


def test_mean_by_length_splits_the_mean():
    rng = np.random.default_rng(5)
    bias = length_correlations(rng.normal(size=(200, 8)), rng.gamma(2, 300, size=(200, 8)))
    intervals = mean_by_length(bias, [0, 400, 600, 700, 100_000, 200_000])
    assert intervals[-1] is None
    kept = [interval for interval in intervals if interval is not None]
    assert sum(interval.n for interval in kept) == 200
    assert sum(interval.n * interval.value for interval in kept) / 200 == pytest.approx(bias.correlation.mean())


def test_bad_input_is_refused():
    with pytest.raises(DataError, match="lengths"):
        length_correlations([[1, 2]], [[1, 2, 3]])
    with pytest.raises(DataError, match="without a length"):
        length_correlations([[1.0, 2.0]], [[1.0, np.nan]])
    bias = length_correlations([[1, 2, 3]], [[10, 30, 20]])
    for edges in ([0], [5, 5], [30, 40]):
        with pytest.raises(DataError):
            length_heatmap(bias, edges)
    for edges, reason in (([3, 2], "rise"), ([30, 40], "below the first edge")):
        with pytest.raises(DataError, match=reason):
            mean_by_length(bias, edges)
    with pytest.raises(DataError, match="-1 to 1"):
        length_heatmap(bias, [0, 100], [-0.5, 0.5])
