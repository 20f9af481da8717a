"""Records survive a round trip whole, later runs replace earlier ones, and bad ones are refused."""

import json
import math

import pytest

from repro.core import records
from repro.core.errors import ArtifactError, DataError
from repro.core.statistics import Interval


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_RUNS", str(tmp_path))
    return tmp_path


def test_round_trip_with_the_promised_columns():
    row = records.record("p2.fig3", "a", "mean", Interval(0.1, 0.0, 0.2, 805), seeds=[0, 1, 2])
    records.save([row], "chapter", "smoke", [0, 1, 2])
    (back,) = records.load(tier="smoke")
    assert back.interval == Interval(0.1, 0.0, 0.2, 805) and back.seed == "0-2" and back.tier == "smoke"
    assert list(json.loads(next(iter((records.runs_folder() / "records").rglob("*.jsonl"))).read_text())) == [
        "id",
        "row",
        "column",
        "value",
        "low",
        "high",
        "n",
        "seed",
        "tier",
        "unit",
    ]


def test_the_last_run_counts_unless_seeds_are_named():
    for seeds, value in ([0, 1], 1.0), ([0], 2.0):
        records.save([records.record("x", "r", "c", value)], "chapter", "smoke", seeds)
    assert [r.value for r in records.load(id="x")] == [2.0]
    assert [r.value for r in records.load(id="x", seeds="0,1")] == [1.0]


def test_other_seeds_never_stand_in_and_a_failed_chapter_is_forgotten():
    records.save([records.record("x", "r", "c", 1.0)], "chapter", "smoke", [0])
    assert records.load(seeds="0-2") == [] and records.last_tier() == "smoke"
    records.forget("chapter", "smoke")
    assert records.load() == [] and records.last_tier() is None


def test_what_is_not_a_number_is_stored_as_none():
    assert records.record("x", "r", "c", math.nan).value is None


def test_two_records_of_one_name_are_refused():
    row = records.record("x", "r", "c", 1.0)
    with pytest.raises(DataError, match="two records"):
        records.save([row, row], "chapter", "smoke", [0])


def test_a_damaged_file_is_named(runs):
    file = records.save([records.record("x", "r", "c", 1.0)], "chapter", "smoke", [0])
    file.write_text(file.read_text()[:-10])
    with pytest.raises(ArtifactError, match=str(file)):
        records.load()


@pytest.mark.parametrize(
    ("text", "seeds"), [("0-2", [0, 1, 2]), ("3", [3]), ("5,0,5", [0, 5]), ([1, 0], [0, 1]), (4, [4])]
)
def test_seeds_are_read(text, seeds):
    assert records.parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "-1", "3-1", "0;1", "1.5"])
def test_what_is_no_seed_is_refused(text):
    with pytest.raises(DataError, match="seed"):
        records.parse_seeds(text)
