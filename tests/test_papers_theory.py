"""The study of p2.thm1: slopes, gains and words on curves whose answer is known, and every table at a tiny size."""

import numpy as np
import pytest

from repro.core import settings
from repro.core.records import record
from repro.core.statistics import Interval
from repro.papers import theory
from repro.papers.bandit import ALONE, ARMS, ENHANCER, OFFLINE
from repro.papers.theory import BOUNDED, GAP, Place, Study


@pytest.fixture(autouse=True)
def own_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_RUNS", str(tmp_path / "runs"))


def section(**overrides):
    return settings.load("smoke", overrides, "p2_07_theory").section("p2_07_theory")


@pytest.mark.parametrize(
    "low, high, words", [(-1, -0.6, "at least as good"), (-0.6, -0.4, "not told apart"), (-0.4, 0, "worse than")]
)
def test_a_promise_is_kept_only_as_far_as_the_interval_says(low, high, words):
    assert theory.compared(Interval((low + high) / 2, low, high, 9), -0.5).startswith(words)


def synthetic(power_m=-1.0, power_d=1.0):
    """Gaps that follow m^power_m d^power_d exactly, the main agent alone twice as far off, offline not moving with m."""
    home = Place(4, 100, 0.02, 0.1)
    noise = 1 + 0.1 * np.random.default_rng(0).normal(size=50)
    found = {}
    regimes = [home, home._replace(eta=1.0)]
    for place in {home._replace(m=m) for m in (10, 100, 1000)} | {home._replace(d=d) for d in (2, 4, 8)} | set(regimes):
        gap = place.m**power_m * place.d**power_d * np.tile(noise, (2 * place.d + 1, 1))
        worse = gap if place.eta == 1 else 2 * gap
        arms = {ENHANCER: gap, ALONE: worse, OFFLINE: 0 * gap + noise}
        found[place] = {
            arm: {GAP: x, BOUNDED: x**0.5, "equal": np.linspace(0, 1, 2 * place.d)} for arm, x in arms.items()
        }
    return Study(found, home, (10, 100, 1000), (2, 4, 8), regimes, (0,))


def test_slopes_of_power_laws_are_their_powers():
    study = synthetic()
    assert study.slope(ENHANCER, "m").value == pytest.approx(-1)
    assert study.slope(ENHANCER, "m", BOUNDED).value == pytest.approx(-0.5)
    assert study.slope(ALONE, "d").value == pytest.approx(1)
    assert study.slope(OFFLINE, "m").value == pytest.approx(0, abs=1e-12)
    rows = {(r.row, r.column): r for r in study.promises()}
    assert rows[theory.PROMISED, "in m"].value == -0.5 and rows[ENHANCER, "in m"].value == pytest.approx(-1)


def test_where_the_enhancer_helps_is_told_by_the_interval():
    study = synthetic()
    assert study.regimes_where(1) == theory.regime(study.home) == "eta 0.1, rare answers 2%"
    assert study.regimes_where(0) == "eta 1, rare answers 2%" and study.regimes_where(-1) == "none"
    gain = study.gain(study.home)
    assert gain.value == pytest.approx(study.at(study.home, ENHANCER).mean()) and gain.n == 50
    assert study.equal_share(ENHANCER) == pytest.approx(100 * 3 / 7)


def test_the_study_at_a_tiny_size():
    """Every place of every table is there, suboptimality is never negative, and seeds stand side by side."""
    small = section(bandits=5, dimensions=[1, 2], dimension=2, batch=32, batches=[8, 32])
    study = theory.study(small, [0, 1])
    tables = [study.by_batch(), study.by_iteration(), study.by_dimension(), study.by_regime(), study.promises()]
    assert [len(rows) for rows in tables] == [6, 9, 6, 16, 12]
    assert {r.n for rows in tables[:3] for r in rows} == {10} and {r.row for r in tables[0]} == set(ARMS)
    for arms in study.found.values():
        assert all((arm[GAP] >= -1e-12).all() and (arm[BOUNDED] >= arm[GAP] - 1e-12).all() for arm in arms.values())
    start = [study.at(study.home, arm, 0).tolist() for arm in ARMS]
    assert start[0] == start[1] == start[2]  # the same bandits, before any pair


def test_the_example_is_the_first_bandit_that_is_played():
    """Common answers are blank in half of the directions, chances sum to a hundred, rare ones are never drawn offline."""
    lines = theory.first_bandit(section(), 0)
    assert [line[0] for line in lines] == ["common"] * 4 + ["rare"] * 4 and lines[0][1].split()[2:] == ["0.0", "0.0"]
    shares = np.array([[float(cell) for cell in line[3:]] for line in lines])
    assert shares.sum(0) == pytest.approx([100] * 3, abs=0.5) and not shares[4:, 2].any()
    theta = theory._bandits(section(), 0).theta[0].numpy()
    features = np.array([[float(x) for x in line[1].split()] for line in lines])
    assert [float(line[2]) for line in lines] == pytest.approx(features @ theta, abs=0.25)


def test_a_guide_of_power_minus_a_half_halves_over_a_factor_of_four():
    rows = [record("x", row, f"m = {m}", 8.0) for row in ("a", "b") for m in (10, 40)]
    x, y = theory.guide(rows, -0.5)
    assert x.tolist() == [10, 40] and y.tolist() == [8, 4]
