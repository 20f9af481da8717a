"""The filters over recorded scores: cells and losses by hand, bounds by trying everything, and the real sets."""

from itertools import permutations

import numpy as np
import pytest

from repro.core import settings
from repro.core.errors import DataError, SettingsError
from repro.core.paths import data_folder
from repro.papers import real_funnel, real_unpaired
from repro.papers.collection_reviews import mask_of
from repro.papers.real_funnel import BOTH, STEP1, STEP3, TURNED

HALVES = [2, 4, 6, 8]
MASK = [[0, 1, 1, 1, 0], [1, 0, 1, 1, 1], [1, 1, 0, 1, 1], [1, 1, 1, 0, 1], [0, 1, 1, 1, 0]]


@pytest.fixture
def section():
    changes = {"real_strong": "a", "real_weak": "c", "epsilon": 0.0, "mask": MASK, "real_cuts": [HALVES, [3, 5, 7, 9]]}
    changes["real_weak_models"] = ["b", "c"]
    return settings.load("paper", changes, "p1_01_collection").section("p1_01_collection")


@pytest.fixture
def three():
    """Four questions, three models: one passed with a turned pair, one that fails step 1, one unscored, one extreme."""
    scores = np.array([[9.0, 10, 4], [5, 9, 6], [9, np.nan, np.nan], [10, 1, 2]])
    answers = (("p", "q", "r"), ("p", "q", "r"), ("p", "", "r"), ("p", "q", "q"))
    return real_funnel.Ratings(("a", "b", "c"), ("w", "x", "y", "z"), scores, answers, {})


def test_two_scores_make_a_level():
    assert real_funnel.levels(np.arange(1, 11), HALVES).tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert real_funnel.levels([8.5, 8.0, 10], [3, 5, 7, 9]).tolist() == [4, 4, 5]
    assert np.isnan(real_funnel.levels([[np.nan]], HALVES)).all()
    for edges in ([2, 4, 6], [2, 2, 6, 8], [4, 2, 6, 8]):
        with pytest.raises(DataError):
            real_funnel.levels([1], edges)


def test_cells_by_their_difference():
    assert real_funnel.cells_apart([1, 2, 3]).tolist() == mask_of(MASK).tolist()
    assert real_funnel.cells_apart([4]).sum() == 2 and real_funnel.cells_apart([1, 2, 3, 4]).sum() == 20
    with pytest.raises(SettingsError, match="no direction"):
        real_funnel.cells_apart([0, 1])


def test_step_1_keeps_what_the_weak_model_does_worse(three):
    assert real_funnel.passes(three, "a", "c", 0.0).tolist()[:2] == [1.0, 0.0]
    assert np.isnan(real_funnel.passes(three, "a", "c", 0.0)[2])
    assert real_funnel.passes(three, "a", "c", 5.0).tolist()[::3] == [0.0, 1.0]
    with pytest.raises(DataError, match="no scores of 'd'"):
        real_funnel.passes(three, "a", "d", 0.0)


def test_the_funnel_by_hand(three, section):
    """Step 1 keeps w and z of w, x, z. In w levels 5, 5, 2: a-b equal, a-c and b-c kept. In z 5, 1, 1: twice extreme,
    and b-c says the same twice. So 2 of 6 pairs stay, none turned; of three questions one gives 2/3 of its pairs."""
    found = {name: part.value for name, part in real_funnel.funnel(three, section).items()}
    assert found == pytest.approx({STEP1: 100 / 3, STEP3: 400 / 6, BOTH: 100 * 2 / 9, TURNED: 0.0})
    with_a = {name: part.value for name, part in real_funnel.funnel(three, section, strong="a").items()}
    assert with_a[STEP3] == pytest.approx(75.0)
    first, third = real_funnel.tallies(three, section)
    assert (first.entered, first.kept, first.dropped) == (4, 2, {"the SFT model keeps up": 1, "no reward": 1})
    assert (third.entered, third.kept) == (6, 2)
    assert third.dropped == {"equal scores": 1, "extreme": 2, "identical answers": 1}


def test_losses_pair_by_pair_are_the_pipelines_own_count(three):
    """`kept` is the filter of the world's pipeline: same pairs, same mask, same number, missing scores included."""
    for differences in ([1, 2, 3], [1, 2, 3, 4], [2]):
        mask = real_funnel.cells_apart(differences)
        pool = real_funnel.compared(three, HALVES, np.ones(4, bool))
        assert pool.kept(mask).sum() == pool.tally(mask).kept
    assert pool.tally(mask).dropped["score missing"] == 1 and pool.tally(mask).dropped["empty answer"] == 2
    assert pool.matrix().sum() == 8 and pool.matrix()[4, 1] == 2


def test_a_funnel_that_keeps_nothing_says_so(three, section):
    nothing = section.pick(*section, epsilon=9.5)
    with pytest.raises(DataError, match="no pair is left"):
        real_funnel.funnel(three, nothing)


def test_losses_rise_with_epsilon(three, section):
    rows = [row for row in real_funnel.epsilon_records(three, section) if row.row == "c"]
    values = [row.value for row in rows]
    assert values == sorted(values) and [row.column for row in rows] == [f"{e:g}" for e in section.real_epsilons]


def test_bounds_of_two_classes_are_frechets():
    """P(A and B) lies between max(0, p + q - 1) and min(p, q): with 0.7 and 0.6 between 0.3 and 0.6, 0.42 if independent."""
    found = real_unpaired.share_bounds([0.7, 0.3], [0.6, 0.4], [[1, 0], [0, 0]])
    assert found == pytest.approx((0.3, 0.42, 0.6))


def test_bounds_are_what_trying_every_pairing_finds():
    """Six scores a side: all 720 pairings, of all pairs and of those that pass step 1."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 4, 6), rng.integers(0, 3, 6)
    shares = np.bincount(a, minlength=4) / 6, np.bincount(b, minlength=3) / 6
    wanted = rng.random((4, 3)) < 0.5
    within = np.subtract.outer(np.arange(4), np.arange(3)) > -1
    for cells in (np.ones((4, 3), bool), within):
        tried = [
            (wanted & cells)[a, b[list(order)]].sum() / cells[a, b[list(order)]].sum()
            for order in permutations(range(6))
            if cells[a, b[list(order)]].any()
        ]
        least, independent, most = real_unpaired.share_bounds(*shares, wanted, cells)
        assert least <= min(tried) + 1e-9 and most >= max(tried) - 1e-9 and least <= independent <= most
    least, _, most = real_unpaired.share_bounds(*shares, wanted)
    tried = [wanted[a, b[list(order)]].mean() for order in permutations(range(6))]
    assert (least, most) == pytest.approx((min(tried), max(tried)))  # its corners are whole pairings


def test_bounds_need_cells_that_can_hold_a_pair():
    with pytest.raises(DataError, match="no pairing"):
        real_unpaired.share_bounds([1.0, 0.0], [1.0], [[1], [1]], [[0], [1]])
    with pytest.raises(DataError, match="cells"):
        real_unpaired.share_bounds([1.0], [0.5, 0.5], [[1]])


def need(name):
    folder = data_folder()
    if folder is None or not (folder / name).is_dir():
        pytest.skip(f"no data folder with {name}: `repro data fetch` brings it, or set REPRO_DATA")


def test_the_real_ratings_go_through_the_real_filter():
    need("arena-hard")
    section = settings.load("smoke").section("p1_01_collection")
    found = real_funnel.ratings()
    assert found.models[0] == section.real_strong and found.scores.shape == (300, 8)
    rows = real_funnel.funnel_records(found, section)
    assert [(row.row, row.column) for row in rows[:3]] == [("the paper", each) for each in (STEP1, STEP3, BOTH)]
    assert all(0 < row.value < 100 and row.n > 200 for row in rows[3:])
    first, third = real_funnel.tallies(found, section)
    assert first.kept + sum(first.dropped.values()) == first.entered == 300
    assert third.kept + sum(third.dropped.values()) == third.entered == 28 * first.kept


def test_the_unpaired_lists_have_bounds_and_no_correlation_by_place():
    need("gpt-4-llm")
    section = settings.load("smoke").section("p1_01_collection")
    found, tallies = real_unpaired.margins()
    assert {name: tally["rows"] for name, tally in tallies.items()}["gpt-4-llm: gpt4"] == 51429
    rows = real_unpaired.unpaired_records(found, section)
    by_row = {row.row: [each.value for each in rows if each.row == row.row] for row in rows}
    assert len(by_row) == 6 and all(least <= middle <= most for least, middle, most in by_row.values())
    assert all(abs(row.value) < 0.02 for row in real_unpaired.position_records(found))
    strong, weak = found[section.real_unpaired_strong], found["icm-1.3b"]
    assert real_unpaired.independent_matrix(strong, weak, HALVES).sum() == pytest.approx(51428)


def test_scores_that_are_not_at_hand_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("REPRO_DATA", str(tmp_path))
    found = real_unpaired.real_scores()
    section = settings.load("smoke").section("p1_01_collection")
    assert found.absent == ("arena-bench", "gpt-4-llm") and found.lines() == [] and found.matrices(section) == {}
