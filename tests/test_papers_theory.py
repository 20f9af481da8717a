"""The theory chapter's study: both routes reach the enumerated optimum, slopes and gains on curves whose answer is known."""

import numpy as np
import pytest

from repro.core import settings
from repro.papers import theory
from repro.papers.bandit import ALONE, ARMS, ENHANCER, OFFLINE
from repro.papers.theory import BOUNDED, DPO, GAP, GRADIENT, Place, Study


@pytest.fixture(autouse=True)
def own_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_RUNS", str(tmp_path / "runs"))


def section(**overrides):
    return settings.load("smoke", overrides, "p2_07_theory").section("p2_07_theory")


def test_both_routes_reach_the_optimum_and_the_log_ratio_is_reward_over_beta():
    """Wide eta, so that a few hundred steps are enough; the slope of the log-ratio on the reward is 1 / beta = 2."""
    climb = theory.climbs(section(eta=0.5, steps=900), [0, 1])
    by_place = {(r.row, r.column): r.value for r in climb.records()}
    for route in (GRADIENT, DPO):
        assert by_place[route, "KL from the optimum"] < 1e-6 and abs(by_place[route, "J below the optimum"]) < 1e-6
        assert by_place[route, "slope of log-ratio on reward"] == pytest.approx(2, abs=0.01)
        curve = climb.curves()[route]
        assert curve[0] > 0.05 and curve[-1] < 1e-6
    assert {r.seed for r in climb.records()} == {"0,1"}


def test_too_few_steps_show_as_a_distance():
    climb = theory.climbs(section(steps=5), [0])
    assert all(r.value > 0.1 for r in climb.records() if r.column == "KL from the optimum")


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
