"""Fetching against a real local HTTP server that cuts, refuses, ignores Range and alters bytes."""

import errno
import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict

import pytest
from file_server import Server

from repro.core.errors import DataError, MissingInput, SettingsError
from repro.core.paths import ROOT
from repro.data import fetch as fetching
from repro.data.download import download, etag_file
from repro.data.fetch import fetch
from repro.data.sources import Source, check


@pytest.fixture
def server():
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


ROWS = [{"n": number, "text": f"{number * 7919 % 10007:x} é"} for number in range(3000)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
QUICK = {"pause": 0.0, "timeout": 5.0, "attempts": 3}


def source_of(name, form, body, content):
    return Source("toy", f"toy/{name}", 1, form, len(body), len(content), hashlib.sha256(content).hexdigest(),
                  "someone/things", "abc123", f"raw/{name}^2", "MIT", "", "")  # fmt: skip


@pytest.fixture
def toy(server, monkeypatch):
    """Three small sources, one for each form of download, as the server has them."""
    packed = gzip.compress(LINES)
    bodies = {
        "kept.jsonl.gz": ("same", packed, LINES),
        "packed.jsonl.gz": ("gzip", LINES, LINES),
        "converted.jsonl.gz": ("lines", json.dumps(ROWS, indent=4, ensure_ascii=False).encode(), LINES),
    }
    made = tuple(source_of(name, *each) for name, each in bodies.items())
    for source, (_, body, _) in zip(made, bodies.values(), strict=True):
        server.files[f"/someone/things/abc123/{source.path}"] = body
    monkeypatch.setattr(fetching, "sources", lambda names: made)
    return made


KEPT = "/someone/things/abc123/raw/kept.jsonl.gz^2"
PACKED = "/someone/things/abc123/raw/packed.jsonl.gz^2"


def whole(folder, toy):
    left = [each.name for each in (folder / "toy").iterdir() if not each.name.endswith(".gz")]
    return not left and all(check(folder, each)[0] == "present" for each in toy)


def test_each_form_arrives_and_a_second_fetch_asks_for_nothing(server, toy, tmp_path):
    report = fetch(tmp_path, base_url=server.url, **QUICK)
    assert report.count("fetched") == 3 and whole(tmp_path, toy)
    assert (tmp_path / "toy/kept.jsonl.gz").read_bytes() == server.files[KEPT]
    assert "MIT" in (tmp_path / "sources.csv").read_text()
    server.asked.clear()
    again = fetch(tmp_path, base_url=server.url, **QUICK)
    assert again.count("already here") == 3 and server.asked == []
    (tmp_path / "toy/kept.jsonl.gz").write_bytes(gzip.compress(b"spoilt"))
    third = fetch(tmp_path, base_url=server.url, **QUICK)
    assert third.count("fetched") == 1 and [path for path, _, _ in server.asked] == [KEPT] and whole(tmp_path, toy)


def test_packing_is_the_same_on_every_machine_and_day(server, toy, tmp_path):
    fetch(tmp_path / "a", base_url=server.url, **QUICK)
    time.sleep(1.1)  # gzip's own clock ticks in seconds
    fetch(tmp_path / "b", base_url=server.url, **QUICK)
    one, two = ((tmp_path / each / "toy/packed.jsonl.gz").read_bytes() for each in "ab")
    assert one == two


@pytest.mark.parametrize(
    ("script", "ranges"),
    [
        (["cut 5000"], [None, "bytes=5000-"]),
        (["cut 5000", "cut 100", "cut 1"], [None, "bytes=5000-", "bytes=5100-", "bytes=5101-"]),
        (["cut 5000", "no range"], [None, "bytes=5000-"]),
        (["cut 5000", "wrong range"], [None, "bytes=5000-", None]),
        (["status 500", "status 429"], [None, None, None]),
        (["cut 5000", "status 503"], [None, "bytes=5000-", "bytes=5000-"]),
        (["cut 0"], [None, None]),
    ],
)
def test_a_bad_connection_is_survived(server, toy, tmp_path, script, ranges):
    server.script[KEPT] = list(script)
    assert fetch(tmp_path, base_url=server.url, **QUICK).count("fetched") == 3
    assert [asked for path, asked, _ in server.asked if path == KEPT] == ranges
    assert whole(tmp_path, toy)


def test_a_server_that_keeps_failing_is_missing_input(server, toy, tmp_path):
    server.script[KEPT] = ["status 500"] * 3
    with pytest.raises(MissingInput, match=r"after 3 attempts \(HTTP 500"):
        fetch(tmp_path, base_url=server.url, **QUICK)


def test_pauses_double_and_the_servers_own_wish_comes_first(server, tmp_path, monkeypatch):
    slept = []
    monkeypatch.setattr("repro.data.download.time.sleep", lambda pause: pause and slept.append(pause))
    for name, wish in (("/a", ""), ("/b", "7"), ("/c", "86400")):
        server.files[name], server.script[name], server.retry_after = b"x", ["status 503", "status 429"], wish
        download(server.url + name, tmp_path / f"{name[1:]}.part", limit=10, pause=1.0)
    assert slept == [1.0, 2.0, 7.0, 7.0, 60.0, 60.0]


def test_offline_is_missing_input_that_says_how_to_go_on(toy, tmp_path):
    with pytest.raises(MissingInput, match="(?s)after 3 attempts.*refused.*goes on where it stopped"):
        fetch(tmp_path, base_url="http://127.0.0.1:9", **QUICK)


def test_a_file_that_is_gone_does_not_keep_the_others(server, toy, tmp_path):
    del server.files[KEPT]
    with pytest.raises(MissingInput, match="HTTP 404"):
        fetch(tmp_path, base_url=server.url, **QUICK)
    assert [check(tmp_path, each)[0] for each in toy] == ["missing", "present", "present"]


@pytest.mark.parametrize("path", [KEPT, PACKED, "/someone/things/abc123/raw/converted.jsonl.gz^2"])
def test_altered_bytes_are_named_and_not_kept(server, toy, tmp_path, path):
    server.script[path] = ["altered"]
    with pytest.raises(DataError, match="altered bytes: expected sha256 [0-9a-f]{64}.*got") as caught:
        fetch(tmp_path, base_url=server.url, **QUICK)
    assert not isinstance(caught.value, MissingInput)
    name = path.split("/")[-1].removesuffix("^2")
    assert name in str(caught.value)
    assert not [each for each in (tmp_path / "toy").iterdir() if each.name.startswith(name)]
    assert len([each for each in toy if check(tmp_path, each)[0] == "present"]) == 2


def test_a_part_of_another_version_is_thrown_away_not_joined(server, toy, tmp_path):
    part = tmp_path / "toy/kept.jsonl.gz.part"
    part.parent.mkdir()
    part.write_bytes(b"old version " * 100)
    etag_file(part).write_text('"v0"')
    assert fetch(tmp_path, base_url=server.url, **QUICK).count("fetched") == 3
    assert server.asked[0] == (KEPT, "bytes=1200-", '"v0"') and whole(tmp_path, toy)
    assert [path for path, _, _ in server.asked].count(KEPT) == 1  # If-Range spared the second request


def test_a_foreign_part_without_etag_is_found_out_by_the_checksum(server, toy, tmp_path):
    part = tmp_path / "toy/kept.jsonl.gz.part"
    part.parent.mkdir()
    for junk in (b"junk" * 100, b"junk" * 100_000, server.files[KEPT] + b"?"):
        part.write_bytes(junk)
        (tmp_path / "toy/kept.jsonl.gz").unlink(missing_ok=True)
        fetch(tmp_path, base_url=server.url, **QUICK)
        assert whole(tmp_path, toy)


def test_a_part_that_was_already_whole_is_used(server, toy, tmp_path):
    part = tmp_path / "toy/kept.jsonl.gz.part"
    part.parent.mkdir()
    part.write_bytes(server.files[KEPT])
    fetch(tmp_path, base_url=server.url, **QUICK)
    assert whole(tmp_path, toy) and [path for path, _, _ in server.asked].count(KEPT) == 1


def test_an_endless_body_is_refused(server, tmp_path):
    server.files["/big"] = b"x" * 300_000
    with pytest.raises(DataError, match="has 300000 bytes, at most 1000"):
        download(f"{server.url}/big", tmp_path / "big.part", limit=1000, pause=0)


def test_progress_counts_every_byte_once(server, tmp_path):
    server.files["/a"], gained = b"x" * 100_000, []
    server.script["/a"] = ["cut 30000", "cut 20000", "no range"]
    download(f"{server.url}/a", tmp_path / "a.part", limit=10**6, advance=gained.append, pause=0)
    assert sum(gained) == 100_000 and min(gained) == -50_000


KILLED = """
import json, sys
from repro.data import fetch as fetching
from repro.data.sources import Source
folder, url, rows = sys.argv[1:]
made = tuple(Source(**row) for row in json.loads(rows))
fetching.sources = lambda names: made
fetching.fetch(folder, base_url=url)
"""


def test_a_killed_fetch_leaves_nothing_half_written_and_goes_on(server, toy, tmp_path):
    server.slow = 0.05
    rows = json.dumps([asdict(each) for each in toy])
    command = [sys.executable, "-c", KILLED, str(tmp_path), server.url, rows]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, stderr=subprocess.DEVNULL)
    part = tmp_path / "toy/kept.jsonl.gz.part"
    deadline = time.monotonic() + 30
    while not (part.is_file() and part.stat().st_size > 4096) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    had = part.stat().st_size
    assert 0 < had < len(server.files[KEPT]) and not (tmp_path / "toy/kept.jsonl.gz").exists()
    server.slow, server.asked = 0.0, []
    fetch(tmp_path, base_url=server.url, **QUICK)
    assert server.ranges()[0] == f"bytes={had}-" and whole(tmp_path, toy)


def test_two_fetches_at_once_do_not_meet(server, toy, tmp_path):
    server.slow = 0.05
    first = threading.Thread(target=fetch, args=(tmp_path,), kwargs={"base_url": server.url} | QUICK)
    first.start()
    while not (tmp_path / "toy/kept.jsonl.gz.part").exists():
        time.sleep(0.01)
    try:
        with pytest.raises(DataError, match="another fetch is at work here"):
            fetch(tmp_path, base_url=server.url, **QUICK)
    finally:
        server.slow = 0.0
        first.join()
    assert whole(tmp_path, toy)


def test_no_space_is_said_before_and_during(server, toy, tmp_path, monkeypatch):
    usage = fetching.shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(fetching.shutil, "disk_usage", lambda folder: usage._replace(free=1000))
        with pytest.raises(DataError, match="no space is left: 0 MiB are free"):
            fetch(tmp_path, base_url=server.url, **QUICK)

    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(fetching.os, "replace", full)
        with pytest.raises(DataError, match="(?s)no space is left.*run it again"):
            fetch(tmp_path, base_url=server.url, **QUICK)


def test_a_full_disk_stops_the_download_at_once(server, tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full on this system")
    server.files["/a"] = b"x" * 1000
    (tmp_path / "a.part").symlink_to("/dev/full")
    with pytest.raises(DataError, match="no space is left"):
        download(f"{server.url}/a", tmp_path / "a.part", limit=10**6, pause=0)
    assert len(server.asked) == 1


def test_no_permission_names_the_file(server, toy, tmp_path):
    (tmp_path / "blocked").write_text("a file where a folder should be")
    with pytest.raises(DataError, match="(?s)blocked.*cannot be written.*may write"):
        fetch(tmp_path / "blocked", base_url=server.url, **QUICK)


def test_only_http_addresses_and_known_names(tmp_path):
    with pytest.raises(SettingsError, match="no http address"):
        fetch(tmp_path, base_url="file:///etc")
    with pytest.raises(SettingsError, match="unknown data set 'hh'"):
        fetch(tmp_path, ["hh"])
