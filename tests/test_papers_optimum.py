"""Both routes reach the enumerated optimum, with the log-ratio on the line of slope 1 / beta; too few steps show."""

import numpy as np
import pytest

from repro.core import settings
from repro.papers import optimum
from repro.papers.optimum import DPO, GRADIENT


@pytest.fixture(autouse=True)
def own_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_RUNS", str(tmp_path / "runs"))


def section(**overrides):
    return settings.load("smoke", overrides, "p2_07_theory").section("p2_07_theory")


def test_both_routes_reach_the_optimum_and_the_log_ratio_is_reward_over_beta():
    """Wide eta, so that a few hundred steps are enough; the slope of the log-ratio on the reward is 1 / beta = 2."""
    climb = optimum.climbs(section(eta=0.5, steps=900), [0, 1])
    by_place = {(r.row, r.column): r.value for r in climb.records()}
    for route in (GRADIENT, DPO):
        assert by_place[route, "KL from the optimum"] < 1e-6 and abs(by_place[route, "J below the optimum"]) < 1e-6
        assert by_place[route, "slope of log-ratio on reward"] == pytest.approx(2, abs=0.01)
        curve = climb.curves()[route]
        assert curve[0] > 0.05 and curve[-1] < 1e-6
    assert {r.seed for r in climb.records()} == {"0,1"}


def test_the_first_prompt_in_percent_sums_to_a_hundred():
    lines = optimum.climbs(section(eta=0.5, steps=900), [0]).first_prompt()
    shares = np.array([[float(cell) for cell in line[1:]] for line in lines])
    assert shares.sum(0) == pytest.approx([100] * 4, abs=0.05)
    assert np.abs(shares[:, 2:] - shares[:, [1]]).max() < 0.1 < np.abs(shares[:, 0] - shares[:, 1]).max()


def test_too_few_steps_show_as_a_distance():
    climb = optimum.climbs(section(steps=5), [0])
    assert all(r.value > 0.1 for r in climb.records() if r.column == "KL from the optimum")
