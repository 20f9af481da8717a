"""The list of sources, the state of a data folder, and a whole fetch of the real files from a local server."""

import csv
import gzip
import json
import shutil

import pytest
from file_server import Server

from repro.core.errors import MissingInput, SettingsError
from repro.core.paths import data_folder
from repro.data import ADAPTERS, alpaca_eval
from repro.data.fetch import fetch
from repro.data.sources import check, sources, status


@pytest.fixture
def real():
    folder = data_folder()
    if folder is None or any(each.state != "present" for each in status(folder)):
        pytest.skip("no whole data folder: `repro data fetch` brings it, or set REPRO_DATA")
    return folder


def test_every_source_is_pinned_and_licensed():
    every = sources()
    assert {each.set for each in every} == set(ADAPTERS) and len(every) == 65
    for each in every:
        assert len(each.commit) == 40 and len(each.sha256) == 64 and each.licence and each.repo.count("/") == 1
        assert each.form in ("same", "gzip", "lines", "derived") and each.file.startswith(each.set + "/")
        assert each.rows > 0 and each.bytes > 0
    assert [each.form for each in every].count("derived") == 1
    with pytest.raises(SettingsError, match="unknown data set 'shp'"):
        sources(["llmbar", "shp"])


def test_status_of_no_folder_and_of_an_empty_one(tmp_path):
    for folder in (None, tmp_path, tmp_path / "none"):
        assert [(each.name, each.state) for each in status(folder)] == [
            (name, "missing")
            for name in ("hh-rlhf", "pku-saferlhf", "llmbar", "alpaca_eval", "arena-hard", "pandalm", "gpt-4-llm")
        ]


def test_status_tells_missing_from_damaged(real, tmp_path):
    shutil.copytree(real / "llmbar", tmp_path / "llmbar")
    shutil.copytree(real / "pku-saferlhf", tmp_path / "pku-saferlhf")
    mine = [each for each in tmp_path.rglob("*.gz")]
    for each in mine:
        each.chmod(0o600)
        each.parent.chmod(0o700)

    def states():
        return {each.name: each.state for each in status(tmp_path)}

    assert states()["llmbar"] == states()["pku-saferlhf"] == "present"
    cut = tmp_path / "pku-saferlhf/test_safety_pairs.jsonl.gz"
    cut.write_bytes(cut.read_bytes()[:-4])
    (tmp_path / "llmbar/Processed/FairEval/dataset.json.gz").unlink()
    assert states()["llmbar"] == "missing" and states()["pku-saferlhf"] == "damaged"
    (tmp_path / "llmbar/LLMBar/Natural/dataset.json.gz").write_bytes(gzip.compress(b"[]"))
    found = next(each for each in status(tmp_path) if each.name == "llmbar")
    assert found.state == "damaged" and "has sha256" in found.detail and "Natural" in found.detail


def body_at_the_source(folder, source):
    """The bytes the public repository serves: packing and conversion undone."""
    stored = (folder / source.file).read_bytes()
    if source.form == "same":
        return stored
    content = gzip.decompress(stored)
    if source.form == "gzip":
        return content
    rows = [json.loads(line) for line in content.split(b"\n") if line]
    return json.dumps(rows, indent=4, ensure_ascii=False).encode()


def test_the_whole_fetch_rebuilds_the_data_folder(real, tmp_path):
    server = Server()
    for source in sources():
        if source.form != "derived":
            body = body_at_the_source(real, source)
            assert len(body) == source.download_bytes
            server.files[f"/{source.repo}/{source.commit}/{source.path}"] = body
    for path in list(server.files)[::7]:
        server.script[path] = ["cut 5000", "status 429"]
    report = fetch(tmp_path, base_url=server.url, pause=0.0)
    server.http.shutdown()
    assert (report.count("fetched"), report.count("derived")) == (64, 1)
    assert all(each.state == "present" for each in status(tmp_path))
    assert (tmp_path / "alpaca_eval" / alpaca_eval.DIFFICULTY).read_bytes() == (
        real / "alpaca_eval" / alpaca_eval.DIFFICULTY
    ).read_bytes()
    assert "64 fetched, 1 derived" in report.summary()
    for name in ("llmbar", "hh-rlhf"):
        assert ADAPTERS[name](tmp_path).rows == ADAPTERS[name](real).rows


def test_a_derived_file_that_does_not_follow_is_damaged(real, tmp_path):
    source = next(each for each in sources() if each.form == "derived")
    home = tmp_path / "alpaca_eval"
    for name in (alpaca_eval.PROMPTS, alpaca_eval.WEIGHTS, alpaca_eval.DIFFICULTY,
                 alpaca_eval.JUDGED_ONLY.format(model=alpaca_eval.ONLY_ANNOTATED)):  # fmt: skip
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(real / "alpaca_eval" / name, home / name)
    assert check(tmp_path, source)[0] == "present"
    with open(home / alpaca_eval.DIFFICULTY, newline="") as stream:
        rows = list(csv.reader(stream))
    rows[5][1] = "0.123"
    with open(home / alpaca_eval.DIFFICULTY, "w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    assert check(tmp_path, source) == ("damaged", f"{source.file} does not follow from the annotations")


def test_from_the_hub_what_the_hub_has(real, tmp_path, monkeypatch):
    asked = []

    def from_copy(hub_id, name, revision=None):
        asked.append((hub_id, name))
        return real / "hh-rlhf" / name

    monkeypatch.setattr("repro.data.fetch.hub_file", from_copy)
    report = fetch(tmp_path, ["hh-rlhf"], from_hub=True)
    assert report.count("fetched") == 4 and asked[0] == ("Anthropic/hh-rlhf", "helpful-base/test.jsonl.gz")
    assert all(each.state == ("present" if each.name == "hh-rlhf" else "missing") for each in status(tmp_path))
    every = fetch(tmp_path, from_hub=True)
    assert every.count("already here") == 4 and every.count("not on the hub") == 60
    assert every.count("not derived, its inputs are missing") == 1
    with pytest.raises(MissingInput, match="the hub does not have this file"):
        fetch(tmp_path, ["llmbar"], from_hub=True)


def test_from_the_hub_offline_names_both_ways(tmp_path, monkeypatch):
    monkeypatch.setattr("repro.core.hub.reachable", lambda: False)
    with pytest.raises(MissingInput, match="two ways"):
        fetch(tmp_path, ["hh-rlhf"], from_hub=True)
