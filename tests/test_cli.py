"""The command line says what it did, what is wrong, and how to fix it."""

import json

import pytest

from repro import cli
from repro.core import inventory, paths, records
from repro.core.source import closure
from repro.core.statistics import Interval


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def said(capsys, *arguments):
    code = cli.main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def test_inventory_as_json_has_every_id(capsys):
    code, out, _ = said(capsys, "inventory", "--json")
    rows = json.loads(out)
    assert code == 0 and [row["id"] for row in rows] == list(inventory.ids())
    assert set(rows[0]) >= {"id", "chapter", "cell", "status"}


def test_records_are_tidy_and_narrowed(capsys):
    for tier in ("smoke", "laptop"):
        records.save([records.record("p2.fig3", "a", "b", 0.5), records.record("x", "a", "b", 1.0)], "c", tier, [0])
    code, out, _ = said(capsys, "records", "--json", "--id", "p2.fig3", "--tier", "smoke")
    (row,) = json.loads(out)
    assert code == 0 and list(row) == ["id", "row", "column", "value", "low", "high", "n", "seed", "tier", "unit"]
    assert said(capsys, "records")[1].count("\n") == 5


def test_claims_are_all_there_before_anything_ran(capsys):
    code, out, _ = said(capsys, "claims", "--json")
    rows = json.loads(out)
    assert code == 0 and len({row["claim"] for row in rows}) == 29
    assert {row["verdict"] for row in rows} == {"not run"}
    assert "not run" in said(capsys, "claims")[1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "--tier", "latpop"], "Did you mean laptop"),
        (["run", "--seeds", "a"], "write 0, 0-4 or 0,2,5"),
        (["run", "p9"], "p9"),
        (["why", "nothing"], "no stored step"),
    ],
)
def test_wrong_use_is_one_clear_line_and_exit_code_2(capsys, arguments, says):
    code, _, err = said(capsys, *arguments)
    assert code == 2 and says in err and "Traceback" not in err


def test_status_before_and_doctor_always_answer(capsys):
    assert "nothing has run yet" in said(capsys, "status")[1]
    assert "smoke" in said(capsys, "doctor")[1]


def test_missing_data_is_exit_code_3(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("REPRO_DATA", str(tmp_path / "nowhere"))
    code, _, err = said(capsys, "data", "status")
    assert code == 3 and "repro data fetch" in err


def made(runs, step, source):
    """A stored artifact of a step whose source was what `source` says."""
    folder = runs / "artifacts" / step / "key"
    folder.mkdir(parents=True)
    manifest = {"step": step, "key": "key", "files": {}, "settings": {}, "inputs": {}, "source": source, "seed": None}
    (folder / "manifest.json").write_text(json.dumps({**manifest, "seconds": 1.0, "finished": "2026-01-01T00:00:00Z"}))
    return folder


def test_clean_removes_what_is_stale_and_keeps_the_rest(capsys, runs):
    current = made(runs, "core.records.save", closure("repro.core.records"))
    stale = made(runs, "core.settings.load", {"repro.core.settings": "another digest"})
    assert "removed 1 stale of 2" in said(capsys, "clean")[1]
    assert current.exists() and not stale.exists()


def test_clean_all_leaves_what_is_not_ours(capsys, runs, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "BOOK", tmp_path / "book")
    monkeypatch.setattr(paths, "CHAPTERS", tmp_path / "book" / "chapters")
    made(runs, "core.records.save", {})
    (runs / "thesis.txt").write_text("years of work")
    assert said(capsys, "clean", "--all")[0] == 0
    assert (runs / "thesis.txt").exists() and not (runs / "artifacts").exists()


def test_claims_are_of_one_tier_the_one_run_last(capsys):
    for tier, value in (("laptop", -1.0), ("smoke", 1.0)):
        row = records.record("p1.c6", "largest_excess", "real text", Interval(value, value, value, 9))
        records.save([row], "c", tier, [0])
    verdict = {
        tier: next(
            r["verdict"]
            for r in json.loads(said(capsys, "claims", "--json", *tier)[1])
            if r["claim"] == "p1.c6" and r["court"] == "real text"
        )
        for tier in ((), ("--tier", "laptop"))
    }
    assert verdict == {(): "fails", ("--tier", "laptop"): "holds"}
    assert said(capsys, "claims", "--tier", "latpop")[0] == 2


def test_a_damaged_state_file_does_not_end_status(capsys, runs):
    file = runs / "state" / "smoke" / "p2_05_benchmarks.status.json"
    file.parent.mkdir(parents=True)
    file.write_text("{")
    assert said(capsys, "status", "--json")[0] == 0
