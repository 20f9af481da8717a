"""RewardBench: hand sums, the published overall scores, the two weight sets, tie rules, intervals."""

import numpy as np
import pytest

from repro.core.errors import DataError, SettingsError
from repro.evaluate.rewardbench import (
    PAPER,
    TODAY,
    binomial_half_width,
    overall_score,
    pair_scores,
    rewardbench,
    reweighted_range,
    section_scores,
    subset_accuracies,
)

SECTIONS = ("Chat", "Chat Hard", "Safety", "Reasoning", "Prior Sets")
# RewardBench's paper (2403.13787): section scores, then the overall it prints
PUBLISHED = {
    "p2's Bradley-Terry model": ([99.4, 65.1, 87.8, 86.4, 74.9], 83.6),
    "p2's preference model": ([98.3, 65.8, 89.7, 94.7, 74.6], 85.7),
    "UltraRM-13b": ([96.4, 55.5, 56.0, 62.4, 72.9], 68.2),
    "LLaMA-3-8B-Instruct, prompted": ([85.5, 41.6, 67.5, 64.8, 60.8], 64.4),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_overall_scores(name):
    """Prior Sets at half weight: (99.4 + 65.1 + 87.8 + 86.4 + 0.5 x 74.9) / 4.5 = 83.59 for the first."""
    scores, overall = PUBLISHED[name]
    assert overall_score(dict(zip(SECTIONS, scores, strict=True))) == pytest.approx(overall, abs=0.05)


def test_ultra_rm_cannot_have_the_safety_that_p2_prints():
    """With 55.0 the overall would print as 67.9, not 68.2: the paper's cell is not this model's 56.0."""
    scores = dict(zip(SECTIONS, PUBLISHED["UltraRM-13b"][0], strict=True)) | {"Safety": 55.0}
    assert round(overall_score(scores), 1) == 67.9


def test_section_sizes():
    """358 + 456 + 740 + 1968 weights; the two weight sets differ in two numbers only."""
    assert [sum(counts.values()) for counts in TODAY.values()] == [358, 456, 740, 1968]
    changed = [(s, n) for s in TODAY for n in TODAY[s] if TODAY[s][n] != PAPER[s][n]]
    assert changed == [("Safety", "xstest-should-refuse"), ("Safety", "xstest-should-respond")]


def test_section_score_by_hand():
    """Safety with 1, 1, 0.5, 0.8, 0: today (100 + 100 + 77 + 200) / 740, then (100 + 100 + 125 + 123.2) / 740."""
    accuracies = dict(zip(TODAY["Safety"], [1.0, 1.0, 0.5, 0.8, 0.0], strict=True))
    assert section_scores(accuracies)["Safety"] == pytest.approx(477 / 740)
    assert section_scores(accuracies, "paper")["Safety"] == pytest.approx(448.2 / 740)


def test_absent_subsets_and_missing_prior_sets_leave_the_mean():
    scores = section_scores({"hep-cpp": 0.5, "hep-go": 1.0, "shp": 0.6, "summarize": float("nan")})
    assert scores == pytest.approx({"Reasoning": 0.75, "Prior Sets": 0.6})
    assert overall_score(scores) == pytest.approx((0.75 + 0.3) / 1.5)


def test_equal_accuracies_give_that_score_everywhere():
    accuracies = {name: 0.7 for counts in TODAY.values() for name in counts}
    for weights in ("today", "paper"):
        scores = section_scores(accuracies, weights)
        assert list(scores.values()) == pytest.approx([0.7] * 4)
        assert overall_score(scores) == pytest.approx(0.7)


def test_tie_rules():
    """Of a win, a tie and a loss, strict counts 1 of 3, half 1.5 of 3."""
    chosen, rejected = [2.0, 1.0, 0.0], [1.0, 1.0, 1.0]
    assert pair_scores(chosen, rejected).tolist() == [1, 0, 0]
    assert pair_scores(chosen, rejected, "half").tolist() == [1, 0.5, 0]
    with pytest.raises(SettingsError, match="tie rule"):
        pair_scores(chosen, rejected, "none")
    with pytest.raises(DataError, match="numbers"):
        pair_scores([np.nan], [0.0])


def test_the_weights_moved_the_papers_safety_by_one_point():
    """The model's published 87.82 became 86.76. 96 of 740 weights moved from refusing to responding:

    -1.06 points x 740 / 96 means it was 8.2 points worse at xstest-should-respond, which is possible.
    """
    low, high = reweighted_range(0.8782, "Safety")
    assert low < 0.8676 < high
    gap = (0.8676 - 0.8782) * 740 / 96
    accuracies = dict.fromkeys(TODAY["Safety"], 0.9) | {"xstest-should-refuse": 0.9, "xstest-should-respond": 0.9 + gap}
    moved = section_scores(accuracies)["Safety"] - section_scores(accuracies, "paper")["Safety"]
    assert moved == pytest.approx(-0.0106)


def test_reweighted_range_by_hand():
    """A score of 0.8782 leaves 90.132 of 740 weights lost. All in should-respond they cost 90.132 x 250 / 154 today,

    all in should-refuse 90.132 x 154 / 250: from 80.23 to 92.50.
    """
    lost = (1 - 0.8782) * 740
    expected = (1 - lost * 250 / 154 / 740, 1 - lost * 154 / 250 / 740)
    assert reweighted_range(0.8782, "Safety") == pytest.approx(expected)
    assert expected == pytest.approx((0.8023, 0.9250), abs=5e-5)
    assert reweighted_range(0.8644, "Reasoning") == pytest.approx((0.8644, 0.8644))
    assert reweighted_range(1.0, "Safety") == pytest.approx((1.0, 1.0))


def test_no_accuracies_leave_the_reweighted_range():
    """Independent oracle: linear programming over the subset accuracies gives the same two ends."""
    optimize = pytest.importorskip("scipy.optimize")
    before, after = np.array(list(PAPER["Safety"].values())) / 740, np.array(list(TODAY["Safety"].values())) / 740
    for score in (0.1, 0.55, 0.9):
        ends = [
            sign * optimize.linprog(sign * after, A_eq=[before], b_eq=[score], bounds=(0, 1)).fun for sign in (1, -1)
        ]
        assert reweighted_range(score, "Safety") == pytest.approx(tuple(ends), abs=1e-9)


def test_binomial_half_width_by_hand():
    """Chat Hard with 0.65 everywhere is one binomial of 456: 1.96 sqrt(0.65 x 0.35 / 456) = 0.0438."""
    accuracies = dict.fromkeys(TODAY["Chat Hard"], 0.65)
    assert binomial_half_width(accuracies, "Chat Hard") == pytest.approx(1.96 * np.sqrt(0.65 * 0.35 / 456))
    smaller = binomial_half_width({"math-prm": 0.8}, "Reasoning", sizes={"math-prm": 984})
    assert binomial_half_width({"math-prm": 0.8}, "Reasoning") == pytest.approx(smaller * np.sqrt(984 / 447))


def test_pairs_to_overall():
    """Simulated pairs: scores follow from the subset means, intervals agree with the binomial half-widths within 10%."""
    rng = np.random.default_rng(3)
    subsets = np.concatenate([[name] * count for counts in TODAY.values() for name, count in counts.items()])
    margin = rng.normal(0.8, 1.0, size=len(subsets))
    result = rewardbench(margin, np.zeros(len(subsets)), subsets, draws=2000)
    assert result.accuracies == subset_accuracies(margin > 0, subsets)
    for section, interval in result.sections.items():
        assert interval.value == pytest.approx((margin > 0)[np.isin(subsets, list(TODAY[section]))].mean())
        error = binomial_half_width(result.accuracies, section, sizes={"math-prm": 984})
        assert interval.half_width == pytest.approx(error, rel=0.1)
        assert interval.n == sum(TODAY[section].values())
    assert result.overall.value == pytest.approx(np.mean([s.value for s in result.sections.values()]))
    assert result.overall.low < result.overall.value < result.overall.high
    assert rewardbench(margin, np.zeros(len(subsets)), subsets, draws=2000) == result


def test_unknown_names_are_refused():
    with pytest.raises(SettingsError, match="weights"):
        section_scores({}, "2023")
    with pytest.raises(DataError, match="unknown sections"):
        overall_score({"Helpfulness": 1.0})
    with pytest.raises(DataError, match="no section"):
        rewardbench([1.0], [0.0], ["a-new-subset"])
