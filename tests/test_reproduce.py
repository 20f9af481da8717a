"""A real run at the smoke tier, killed in the middle: what was finished is not repeated, and the records are the same."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from repro.core import artifacts, why
from repro.core.paths import data_folder, models_folder

CHAPTER = "p2_02_reward_models"
WITHOUT = "the public data or the encoder is not on this machine: `repro data fetch`, REPRO_MODELS"


def start(runs):
    environment = {**os.environ, "REPRO_RUNS": str(runs)}
    command = [sys.executable, "-m", "repro.cli", "run", CHAPTER, "--tier", "smoke", "--seeds", "0", "--jobs", "1"]
    with open(os.devnull, "wb") as quiet:
        return subprocess.Popen([*command, "--no-book"], env=environment, stdout=quiet, stderr=quiet)


def finished(runs):
    """Each finished artifact with the moment it was finished and the bytes of its files."""
    files = runs.glob("artifacts/*/[!.]*/manifest.json")  # a folder with a dot is still being written
    manifests = [json.loads(file.read_text()) for file in files]
    return {manifest["key"]: (manifest["finished"], manifest["files"]) for manifest in manifests}


def records(runs):
    return (runs / "records" / "smoke" / CHAPTER / "0.jsonl").read_text()


@pytest.mark.skipif(data_folder() is None or models_folder() is None, reason=WITHOUT)
def test_a_killed_run_goes_on_and_two_runs_agree_to_the_bit(tmp_path, monkeypatch):
    killed = start(tmp_path / "killed")
    while len(finished(tmp_path / "killed")) < 6:
        assert killed.poll() is None, "the run ended before it could be killed"
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    time.sleep(3)  # its job and kernel notice and end
    before = finished(tmp_path / "killed")
    assert not (tmp_path / "killed" / "state" / "smoke" / f"{CHAPTER}.done.json").exists()
    assert start(tmp_path / "killed").wait(120) == 0
    after = finished(tmp_path / "killed")
    assert {key: after[key] for key in before} == before and len(after) > len(before)

    first, second = start(tmp_path / "whole"), start(tmp_path / "whole")  # at once, on one set of artifacts
    assert first.wait(180) == 0 and second.wait(180) == 0
    whole = finished(tmp_path / "whole")
    assert {key: files for key, (_, files) in whole.items()} == {key: files for key, (_, files) in after.items()}
    assert records(tmp_path / "whole") == records(tmp_path / "killed")
    monkeypatch.setenv("REPRO_RUNS", str(tmp_path / "whole"))
    known = {str(artifact.path): artifact for artifact in artifacts.stored()}
    assert known
    stale = {path: found for path, artifact in known.items() if (found := why.reasons(artifact, known))}
    assert stale == {}
