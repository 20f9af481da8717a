"""Win rates and two-turn scores: hand arithmetic, judges whose only taste is known, and models whose truth is known."""

import numpy as np
import pytest
from scipy.special import expit

from repro.core.errors import DataError
from repro.core.statistics import mean_interval
from repro.evaluate.alpacaeval import length_term
from repro.evaluate.chat import (
    instruction_difficulty,
    length_controlled_values,
    length_controlled_win_rates,
    two_turn_score,
    win_rate,
)


def contest(prompts, strength, length_weight, spread, seed=0):
    """Models' wins, lengths and the baseline's, and each one's true rate at equal lengths, in percent."""
    rng = np.random.default_rng(seed)
    baseline, hard = rng.integers(50, 300, prompts), rng.normal(size=prompts) * spread
    wins, lengths, true = {}, {}, {}
    for place, own in enumerate(strength):
        name = f"model {place}"
        lengths[name] = np.clip(baseline + rng.normal(40 * place, 60, prompts), 10, None).round()
        chance = expit(own + length_weight * length_term(baseline, lengths[name]) + hard)
        wins[name] = (rng.random(prompts) < chance).astype(float)
        true[name] = 100 * expit(own + hard).mean()
    return wins, lengths, baseline, true


def test_win_rate_by_hand():
    """Win, loss, tie and a missing one: (1 + 0 + 0.5) / 3 = 50%, on three prompts."""
    rate = win_rate([1.0, 0.0, 0.5, np.nan])
    assert (rate.value, rate.n) == (50.0, 3) and 0 <= rate.low < 50 < rate.high <= 100
    assert win_rate([1.0, 1.0]).value == win_rate([1.0, 1.0]).low == 100.0


@pytest.mark.parametrize("bad", [[1.5, 0.5], [-0.1, 0.5], [[0.5, 0.5]], [np.nan, np.nan], []])
def test_preferences_that_are_no_probabilities_are_refused(bad):
    with pytest.raises(DataError):
        win_rate(bad)


def test_equal_lengths_leave_the_raw_rate():
    wins, _, baseline, _ = contest(100, (-1, 1), 0, 1)
    rates = length_controlled_win_rates(wins, dict.fromkeys(wins, baseline), baseline)
    assert rates == {name: win_rate(values) for name, values in wins.items()}


def test_a_judge_that_only_likes_length_is_seen_through():
    """Models equal to the baseline, one of them as long and two longer: raw rates rise far over 50%, controlled ones do not."""
    wins, lengths, baseline, _ = contest(2000, (0, 0, 0), -3, 0)
    raw = [win_rate(values).value for values in wins.values()]
    assert raw[1] > 65 and raw[2] > 75
    for rate in length_controlled_win_rates(wins, lengths, baseline, draws=200).values():
        assert rate.value == pytest.approx(50, abs=5)
        assert rate.low - 2 < 50 < rate.high + 2


def test_the_true_rates_come_back_where_length_and_difficulty_matter():
    wins, lengths, baseline, true = contest(4000, (-0.5, 0, 0.5), -1.5, 1)
    rates = length_controlled_win_rates(wins, lengths, baseline, draws=100)
    for name, rate in rates.items():
        assert rate.value == pytest.approx(true[name], abs=3.5)
    longest = "model 2"
    assert win_rate(wins[longest]).value - true[longest] > 10  # what length control is for


def test_the_refit_ends_where_the_penalty_presses_a_weight_to_nothing():
    wins, lengths, baseline, _ = contest(500, (-0.5, 0, 0.5), -1.5, 1)
    for seed in range(4):
        other = contest(500, (-0.5, 0, 0.5), -1.5, 1, seed)[0]["model 0"]
        pair = {"ours": wins["model 1"], "theirs": other}
        both = {"ours": lengths["model 1"], "theirs": lengths["model 0"]}
        assert length_controlled_win_rates(pair, both, baseline, draws=100).keys() == {"ours", "theirs"}


def test_the_order_of_prompts_and_of_models_is_nothing():
    wins, lengths, baseline, _ = contest(300, (-0.5, 0, 0.5), -1.5, 1)
    rates = length_controlled_win_rates(wins, lengths, baseline, draws=50)
    order = np.random.default_rng(1).permutation(300)
    mixed = length_controlled_win_rates(
        {name: wins[name][order] for name in reversed(wins)},
        {name: lengths[name][order] for name in wins},
        baseline[order],
        draws=50,
    )
    for name, rate in rates.items():
        assert mixed[name].value == pytest.approx(rate.value, abs=1e-4)
        assert mixed[name].low == pytest.approx(rate.low, abs=1e-2)


def test_one_model_alone_and_missing_preferences_have_a_rate():
    wins, lengths, baseline, _ = contest(300, (0.5,), 0, 0)
    wins["model 0"][:20] = np.nan
    (rate,) = length_controlled_win_rates(wins, lengths, baseline, draws=50).values()
    assert rate.n == 280 and rate.low < rate.value < rate.high
    assert rate.value == pytest.approx(win_rate(wins["model 0"]).value, abs=2)


def test_shapes_and_names_must_agree():
    half, baseline = np.full(4, 0.5), np.arange(4)
    with pytest.raises(DataError, match="different models"):
        length_controlled_win_rates({"a": half}, {"b": baseline}, baseline)
    with pytest.raises(DataError, match="one preference"):
        length_controlled_win_rates({"a": half[:3]}, {"a": baseline}, baseline)
    with pytest.raises(DataError, match="equal"):
        length_controlled_win_rates({"a": half}, {"a": baseline + 7}, baseline)


def test_instruction_difficulty_by_hand():
    """Two models, both win prompt 1 and lose prompt 2: g = 2 sigmoid(-g), so g = 0.6749, and the reverse."""
    found = instruction_difficulty([[1, 0], [1, 0]], np.zeros((2, 2)))
    assert found == pytest.approx([0.6749, -0.6749], abs=1e-3)
    assert instruction_difficulty([[1, np.nan, 0], [1, 0.5, 0]], np.zeros((2, 3)))[1] == pytest.approx(0, abs=1e-3)
    with pytest.raises(DataError, match="shapes"):
        instruction_difficulty([[1, 0]], [[0.0]])


def test_two_turns_by_hand():
    """Ratings 8, 6 and 9; then 4, none and none: (8 + 6 + 9 + 4) / 4 = 6.75; turns 23 / 3 and 4; two are missing."""
    found = two_turn_score([8, 6, 9], [4, -1, np.nan])
    assert (found.both.value, found.both.n, found.missing) == (6.75, 3, 2)
    assert found.first.value == pytest.approx(23 / 3) and (found.second.value, found.second.n) == (4.0, 1)
    assert found.both.low <= 6.75 <= found.both.high


def test_the_two_ratings_of_a_prompt_are_drawn_together():
    """Turns that agree hold no more than one: the interval must not shrink as if there were twice the prompts."""
    first = np.random.default_rng(0).integers(1, 11, 200)
    found = two_turn_score(first, first)
    assert found.both.half_width == pytest.approx(found.first.half_width, rel=0.05)


@pytest.mark.parametrize("bad", [([1, 2], [1]), ([0], [5]), ([11], [5]), ([5], [-1])])
def test_ratings_that_cannot_be_are_refused(bad):
    with pytest.raises(DataError):
        two_turn_score(*bad)


@pytest.mark.parametrize("length_weight", [0, -2])
def test_what_prompts_say_of_the_controlled_rate_has_its_mean_and_its_interval(length_weight):
    """The jackknife against the bootstrap that refits: the same rate; as wide, or wider where the penalty holds a weight at 0."""
    wins, lengths, baseline, _ = contest(800, (-1, 0.2, 1), length_weight, 0.7)
    refitted = length_controlled_win_rates(wins, lengths, baseline)
    ratios = []
    for name, values in length_controlled_values(wins, lengths, baseline).items():
        found = mean_interval(values)
        assert found.value == pytest.approx(refitted[name].value, abs=1e-9)
        ratios.append(found.half_width / refitted[name].half_width)
    assert min(ratios) > 0.9 and max(ratios) < 1.6 and any(abs(ratio - 1) < 0.1 for ratio in ratios)


def test_a_rate_that_the_penalty_holds_at_a_half_still_has_an_error():
    """A hundred prompts, a coin: the refits all end at zero weights, the prompts still disagree."""
    wins, lengths, baseline, _ = contest(100, (0,), 0, 0)
    assert mean_interval(length_controlled_values(wins, lengths, baseline)["model 0"]).half_width > 5


def test_a_prompts_say_is_what_leaving_it_out_changes():
    """n times the rate less n - 1 times the rate without the prompt, to first order; the folds' choice of penalty apart."""
    wins, lengths, baseline, _ = contest(300, (0.5,), -2, 0)
    own, values = wins["model 0"], length_controlled_values(wins, lengths, baseline)["model 0"]
    shift = {}
    for won in (0.0, 1.0):
        place = int(np.flatnonzero(own == won)[0])
        kept = np.arange(300) != place
        less = {"model 0": own[kept]}, {"model 0": lengths["model 0"][kept]}
        without = length_controlled_win_rates(*less, baseline[kept], draws=2)["model 0"].value
        shift[won] = (300 * values.mean() - 299 * without, values[place])
    for left_out, said in shift.values():
        assert said == pytest.approx(left_out, abs=15)
    assert shift[1.0][1] > shift[0.0][1] + 50


def test_equal_lengths_say_the_preferences_and_a_missing_one_is_refused():
    wins, _, baseline, _ = contest(50, (0,), 0, 1)
    assert (length_controlled_values(wins, {"model 0": baseline}, baseline)["model 0"] == 100 * wins["model 0"]).all()
    wins["model 0"][3] = np.nan
    with pytest.raises(DataError):
        length_controlled_values(wins, {"model 0": baseline + 1}, baseline)
