"""Artifacts: found again, never half-written, never used when damaged, safe under several runs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from repro.core import artifacts, settings, why
from repro.core.errors import ArtifactError, MissingInput

CALLS: list[str] = []


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_RUNS", str(tmp_path / "runs"))
    CALLS.clear()
    return tmp_path / "runs"


def double(job):
    CALLS.append("double")
    (job.out / "answer.txt").write_text(str(2 * job.settings.number))


def after(job):
    CALLS.append("after")
    (job.out / "answer.txt").write_text((job.inputs["before"] / "answer.txt").read_text() + "!")


def run(step=double, **settings):
    return artifacts.run(step, settings=settings or {"number": 21})


def test_a_step_runs_once_and_is_found_again():
    first, second = run(), run()
    assert (first / "answer.txt").read_text() == "42"
    assert CALLS == ["double"] and first.path == second.path and first.digest == second.digest


@pytest.mark.parametrize("change", [{"settings": {"number": 22}}, {"seed": 1}])
def test_another_setting_or_seed_is_another_artifact(change):
    same = {"settings": {"number": 21}, "seed": 0}
    assert artifacts.run(double, **same).key != artifacts.run(double, **{**same, **change}).key


def test_the_key_ignores_the_order_of_settings():
    assert run(number=1, other=2).key == run(other=2, number=1).key


def test_an_input_with_other_bytes_makes_another_artifact():
    keys = {artifacts.run(after, settings={}, inputs={"before": run(number=n)}).key for n in (1, 2)}
    assert len(keys) == 2


@pytest.mark.parametrize("harm", ["truncate", "alter", "remove", "add", "manifest"])
def test_damage_is_named_and_rebuilt(harm, capsys):
    made = run()
    file = made / "answer.txt"
    if harm == "add":
        (made / "stray.txt").write_text("?")
    elif harm == "remove":
        file.unlink()
    else:
        target = made / "manifest.json" if harm == "manifest" else file
        target.write_text({"truncate": "4", "alter": "43", "manifest": "{"}[harm])
        os.utime(target, ns=(1, time.time_ns()))
    again = run()
    assert (again / "answer.txt").read_text() == "42" and CALLS == ["double", "double"]
    assert "damaged" in capsys.readouterr().out


def test_a_failing_step_leaves_nothing(runs):
    def failing(job):
        (job.out / "half.txt").write_text("half")
        raise ValueError("on purpose")

    failing.__module__ = __name__
    with pytest.raises(ValueError, match="on purpose"):
        artifacts.run(failing, settings={})
    assert not [path for path in runs.rglob("*") if path.name == "half.txt"]


def test_a_folder_that_is_still_being_written_is_not_listed(runs):
    """A manifest is opened before it is filled: a reader that looks just then must not meet it."""

    def writing(job):
        (job.out / artifacts.MANIFEST).write_text("")
        assert artifacts.stored() == []

    writing.__module__ = __name__
    artifacts.run(writing, settings={})
    assert len(artifacts.stored()) == 1


def test_a_failing_step_gives_its_lock_back_even_while_its_error_is_kept():
    """In a notebook the traceback of a failed cell stays alive, and the cell is run again."""

    def failing(job):
        raise ValueError("on purpose")

    failing.__module__ = __name__
    kept = []
    for _ in range(2):
        try:
            artifacts.run(failing, settings={})
        except ValueError as error:
            kept.append(error)
    assert [str(error) for error in kept] == ["on purpose"] * 2


def test_code_edited_after_it_was_imported_is_not_stored_under_its_new_source(tmp_path, monkeypatch):
    module = tmp_path / "edited.py"
    module.write_text("X = 1")
    os.utime(module, (time.time() + 60, time.time() + 60))
    monkeypatch.setitem(sys.modules, "edited", SimpleNamespace(__file__=str(module)))
    monkeypatch.setattr(artifacts.source, "closure", lambda *_: {"edited": "digest"})
    with pytest.raises(ArtifactError, match="(?s)edited: was edited after.*restart the kernel"):
        run()
    os.utime(module, (artifacts.STARTED - 60, artifacts.STARTED - 60))
    assert run().manifest["source"] == {"edited": "digest"}


@pytest.mark.parametrize("key", ["step", "seconds", "finished", "files"])
def test_a_manifest_that_lacks_a_key_is_damage(key, capsys):
    made = run()
    manifest = json.loads((made / "manifest.json").read_text())
    del manifest[key]
    (made / "manifest.json").write_text(json.dumps(manifest))
    assert artifacts.stored() == []
    assert (run() / "answer.txt").read_text() == "42" and "damaged" in capsys.readouterr().out


def test_a_full_disk_is_a_clear_error():
    def filling(job):
        raise OSError(28, "No space left on device", str(job.out / "big"))

    filling.__module__ = __name__
    with pytest.raises(ArtifactError, match="(?s)No space left.*REPRO_RUNS"):
        artifacts.run(filling, settings={})


def test_no_write_permission_is_a_clear_error(tmp_path, monkeypatch):
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder should be")
    monkeypatch.setenv("REPRO_RUNS", str(blocked / "runs"))
    with pytest.raises((ArtifactError, NotADirectoryError)) as error:
        run()
    assert isinstance(error.value, ArtifactError) and "REPRO_RUNS" in str(error.value)


def test_external_input_is_known_by_its_bytes(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    before = artifacts.external(tmp_path / "a.txt").digest
    (tmp_path / "a.txt").write_text("two!")
    assert artifacts.external(tmp_path / "a.txt").digest != before
    with pytest.raises(MissingInput):
        artifacts.external(tmp_path / "nowhere")


SLOW = """
import sys, time
from pathlib import Path
from repro.core import artifacts
def slow(job):
    mark = Path(sys.argv[1])
    with mark.open("a") as stream: stream.write("ran\\n")
    done = job.scratch / "checkpoint"
    start = int(done.read_text()) if done.exists() else 0
    for i in range(start, 20):
        time.sleep(0.05)
        done.write_text(str(i + 1))
        with Path(sys.argv[1] + ".steps").open("a") as stream: stream.write(f"{i}\\n")
    (job.out / "answer.txt").write_text("done")
artifacts.run(slow, settings={"n": 1})
"""


def start(tmp_path, text=SLOW):
    script = tmp_path / "slow_step.py"
    script.write_text(text)
    mark = tmp_path / "mark"
    return subprocess.Popen([sys.executable, str(script), str(mark)], env=os.environ.copy()), mark


def test_a_kill_leaves_nothing_half_written_and_the_scratch_survives(tmp_path, runs):
    process, mark = start(tmp_path)
    steps = Path(str(mark) + ".steps")
    while not (steps.exists() and steps.read_text().count("\n") >= 5):
        time.sleep(0.02)
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(runs.glob("artifacts/*/[!.]*"))
    again, _ = start(tmp_path)
    assert again.wait(30) == 0
    taken = [int(line) for line in steps.read_text().split()]
    assert len(taken) <= 21 and taken[-1] == 19  # at most one checkpoint interval was repeated
    (made,) = runs.glob("artifacts/*/[!.]*")
    assert (made / "answer.txt").read_text() == "done"
    assert not list(runs.glob("artifacts/*/.*.tmp")) and not list(runs.glob("artifacts/*/.*.scratch"))


def test_two_runs_at_once_compute_once(tmp_path):
    first, mark = start(tmp_path)
    second, _ = start(tmp_path)
    assert first.wait(30) == 0 and second.wait(30) == 0
    assert mark.read_text() == "ran\n"


def test_why_names_what_changed(tmp_path, monkeypatch):
    folder = tmp_path / "data.txt"
    folder.write_text("one")
    made = artifacts.run(after, settings={}, inputs={"before": run()})
    assert made.manifest["from"]["before"]["step"].endswith("double")
    raw = artifacts.run(look, settings={}, inputs={"data": artifacts.external(folder)})
    assert "current" in why.explain("look")
    folder.write_text("two, longer")
    assert f"input data differs: {folder}" in why.explain("look")
    manifest = json.loads((raw / "manifest.json").read_text())
    assert manifest["versions"]["python"] == sys.version.split()[0] and "repro" not in str(manifest["files"])


def test_why_follows_a_renamed_setting_and_leaves_constants_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "PARAMS", tmp_path)
    (tmp_path / "paper.yaml").write_text("shared: {}\nloop:\n  prompts: 21  # p2\n  number: 4  # p2\n")
    section = settings.load("paper").section("loop").renamed(number="prompts")
    artifacts.run(double, settings=section.pick("number", other=3))
    assert "current" in why.explain("double") and "current" in why.explain("loo")
    (tmp_path / "paper.yaml").write_text("shared: {}\nloop:\n  prompts: 22  # p2\n  number: 4  # p2\n")
    assert "setting prompts is 22 now, was 21" in why.explain("double")


def look(job):
    (job.out / "seen.txt").write_text(job.inputs["data"].path.read_text())
