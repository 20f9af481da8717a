"""The runner, run as a user runs it: siblings, exit status, resume, narrowing, kills, kernels."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from miniature_project import make

from repro.batch import chapters

ALL = ["00_tour", "p1_01_wrong", "p1_02_absent", "p2_01_slow", "99_scorecard"]


def wait_for(condition, seconds=40):
    """Until the condition holds; the test fails if it never does."""
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "waited in vain"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The project after one whole run: the project, the exit status, and what the terminal showed."""
    project = make(tmp_path_factory.mktemp("batch"))
    status, shown = project.run()
    return project, status, shown


def test_a_failed_chapter_leaves_its_siblings_running(first):
    project, status, shown = first
    assert status == 1, shown
    states = {name: project.status(name)["state"] for name in ALL}
    assert states == dict(zip(ALL, ["done", "failed", "skipped", "done", "done"], strict=True))
    assert sorted(project.ran()) == sorted(ALL) and project.ran()[-1] == "99_scorecard"
    for name in ALL:
        assert re.search(rf"{name} +{states[name]}", shown)
    assert "peak memory, all processes" in shown
    assert "`repro data fetch` brings it" in shown


def test_the_failed_page_shows_the_error_as_text_and_nothing_behind_it(first):
    page = first[0].page("p1_01_wrong")
    notice = page.cells[1].source
    assert "This chapter failed" in notice
    assert "&lt;script&gt;alert(1)&lt;/script&gt; **bold**" in notice and "<script>" not in notice
    assert "\n# not a heading" not in notice and notice.count("\n::::") == 1  # the error's own lines end no block
    text = "\n".join(cell.source for cell in page.cells)
    assert "Behind" not in text and "{glue" not in text
    error = first[0].status("p1_01_wrong")["error"]
    assert error["ename"] == "ValueError" and error["cell"] == 3


def test_the_skipped_page_says_in_one_line_how_to_get_the_data(first):
    notice = first[0].page("p1_02_absent").cells[1].source
    assert "skipped" in notice and "hh-rlhf: no pairs; `repro data fetch` brings it" in notice


def test_the_page_shows_its_parameters_once_and_what_it_cost(first):
    page = first[0].page("00_tour")
    assert [cell.source for cell in page.cells if "seeds = " in cell.source] == ['tier = "smoke"\nseeds = [0]\noverrides = {}']
    footer = page.cells[-1].source
    for part in ("tier smoke", "seeds 0", "commit unknown", "Python 3.", "duration", "peak memory"):
        assert part in footer
    assert "papermill" not in str(page.metadata) and all("papermill" not in cell.metadata for cell in page.cells)
    assert project_peak(first[0]) > 30  # MiB: a bare kernel holds more


def project_peak(project):
    return project.status("00_tour")["peak_mebibytes"]


def test_resume_runs_only_what_is_missing_or_changed(first):
    """Failed and skipped chapters are tried again; then nothing is left, and an edit runs one chapter alone."""
    project = first[0]
    project.forget()
    project.put("p1_01_wrong", "md:Mended.", "6 * 7")
    status, _ = project.run()
    assert status == 3 and sorted(project.ran()) == ["p1_01_wrong", "p1_02_absent"]  # only the skip is left
    project.put("p1_02_absent", "md:There now.")
    assert project.run()[0] == 0
    project.forget()
    started = time.perf_counter()
    status, shown = project.run()
    assert status == 0 and project.ran() == [] and "4 of 4 chapters are current" in shown
    assert time.perf_counter() - started < 10
    (project.folder / "params" / "smoke.yaml").write_text("extends: paper\nshared: {seconds: 2}\n")
    assert project.run(only="p2_01_slow")[0] == 0 and project.ran() == ["p2_01_slow", "99_scorecard"]


@pytest.mark.parametrize("only, names", [("p1", ALL[1:3]), ("p2_01_slow", ["p2_01_slow"]), ("00,p2", ["00_tour", "p2_01_slow"]), (None, ALL)])
def test_only_narrows(only, names, here):
    from repro.batch import chapters

    assert chapters.select(only) == names


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A project whose paths this process uses too."""
    from repro.core import paths, settings

    project = make(tmp_path)
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(paths, "BOOK", tmp_path / "book")
    monkeypatch.setattr(paths, "CHAPTERS", tmp_path / "book" / "chapters")
    monkeypatch.setattr(paths, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(settings, "PARAMS", tmp_path / "params")
    monkeypatch.setenv("REPRO_RUNS", str(tmp_path / "runs"))
    for variable in ("REPRO_DATA", "REPRO_MODELS"):
        monkeypatch.delenv(variable, raising=False)
    return project


@pytest.mark.parametrize(
    "words, error",
    [
        ({"only": "p1_01_wrnog"}, "Did you mean p1_01_wrong"),
        ({"only": "p2_02_planned"}, "has no notebook yet"),
        ({"tier": "smok"}, "smoke"),
        ({"seeds": "0-x"}, "no seed"),
        ({"jobs": 0}, "whole number"),
        ({"profile": "slrum"}, "There are: slurm"),
    ],
)
def test_a_wrong_word_is_named_before_anything_runs(words, error, here):
    from repro.core.errors import ReproError
    from repro.run import run

    with pytest.raises(ReproError, match=error):
        run(**{"tier": "smoke", "seeds": "0", "jobs": 1, "build_book": False} | words)
    assert not (here.folder / "runs").exists()


def test_the_slurm_profile_names_its_plugin_where_that_is_absent(here):
    from importlib.util import find_spec

    from repro.batch.plan import profile_folder
    from repro.core.errors import SettingsError

    if find_spec("snakemake_executor_plugin_slurm"):
        assert profile_folder("slurm").name == "slurm"
        return
    with pytest.raises(SettingsError, match="pip install snakemake-executor-plugin-slurm"):
        profile_folder("slurm")


def test_what_a_chapter_depends_on_is_in_its_digest(here):
    """Each change alone moves the digest; a notebook's outputs and a data folder's place do not."""
    from repro.batch import chapters

    def digest(seeds=(0,)):
        return chapters.digest(chapters.inputs("00_tour", chapters.shared_inputs("smoke")), seeds)

    seen = [digest(), digest((0, 1))]
    (here.folder / "data").mkdir()
    seen.append(digest())
    (here.folder / "data" / "rows.jsonl").write_text("{}")
    seen.append(digest())
    os.utime(here.folder / "data" / "rows.jsonl", (1, 1))
    seen.append(digest())
    (here.folder / "params" / "smoke.yaml").write_text("extends: paper\nshared: {seconds: 2}\n")
    seen.append(digest())
    here.put("00_tour", "1 + 1")
    seen.append(digest())
    here.put("00_tour", "from repro.core import statistics")
    seen.append(digest())
    assert len(set(seen)) == len(seen)
    assert "repro.core.statistics" in chapters.inputs("00_tour", {})["modules"]
    assert digest() == seen[-1]
    os.rename(here.folder / "data", here.folder.parent / "elsewhere")
    os.environ["REPRO_DATA"] = str(here.folder.parent / "elsewhere")
    assert digest() == seen[-1]


def test_kill_minus_nine_leaves_no_kernel_and_the_next_run_does_the_rest(tmp_path):
    """Two chapters finish, one is in the middle of a cell when the run is killed: only that one runs again."""
    project = make(tmp_path)
    for name in ("p1_01_wrong", "p1_02_absent"):
        (tmp_path / "notebooks" / f"{name}.ipynb").unlink()
    run = project.start(SLOW="60")
    try:
        wait_for(lambda: "p2_01_slow" in project.ran() and (tmp_path / "runs/state/smoke/00_tour.done.json").exists())
        family = psutil.Process(run.pid).children(recursive=True)
        assert len(project.kernels()) == 1
    finally:
        run.send_signal(signal.SIGKILL)
    wait_for(lambda: not project.kernels(), 10)
    wait_for(lambda: not [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE], 20)
    project.forget()
    status, shown = project.run()
    assert status == 0 and project.ran() == ["p2_01_slow", "99_scorecard"], shown
    assert not list((tmp_path / "runs/state/smoke/work").glob("*"))  # what the killed run left is cleared away


def test_a_killed_job_takes_its_kernel_along_and_its_chapter_says_so(tmp_path):
    """The job is killed, not the run: the kernel sees its parent gone and ends; the run goes on."""
    project = make(tmp_path, scorecard=False)
    run = project.start(only="p2", SLOW="60")
    wait_for(lambda: project.ran() and project.kernels())
    job = int(project.lines()[0].split(" ")[-2])
    os.kill(job, signal.SIGKILL)
    out = run.communicate(timeout=60)[0]
    assert run.returncode == 1 and re.search("p2_01_slow +failed", out)
    assert project.kernels() == []
    assert "killed" in project.page("p2_01_slow").cells[1].source


def test_a_terminated_run_ends_everything_at_once(tmp_path):
    project = make(tmp_path)
    run = project.start(only="p2", SLOW="60")
    wait_for(lambda: project.ran() and project.kernels())
    run.terminate()
    run.communicate(timeout=20)
    assert run.returncode == 143
    wait_for(lambda: not project.kernels(), 5)


START = """import sys; sys.modules["rfc3987_syntax"] = None
from jupyter_client.utils import run_sync
from repro.batch.kernel import ChapterKernel, kill_kernels
async def start():
    kernel = ChapterKernel(kernel_name="python3")
    await kernel.start_kernel()
    client = kernel.client()
    client.start_channels()
    await client.wait_for_ready(timeout=30)
    print(kernel.transport, len(ChapterKernel.started))
run_sync(start)()
kill_kernels()"""


@pytest.mark.parametrize("attempt", range(3))
def test_four_kernels_start_together(attempt, tmp_path):
    """Each in a process of its own, as jobs are; ports were a race between them, socket files are none."""
    project = make(tmp_path)
    jobs = [subprocess.Popen([sys.executable, "-c", START], stdout=-1, stderr=-1, text=True, env=project.environment()) for _ in range(4)]
    told = [job.communicate(timeout=60) for job in jobs]
    assert [out for out, _ in told] == ["ipc 1\n"] * 4, told


def test_where_a_socket_path_would_be_too_long_kernels_use_ports_one_by_one(tmp_path):
    project = make(tmp_path, scorecard=False)
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    status, shown = project.run(only="00,p2", TMPDIR=str(deep))
    assert status == 0, shown
    assert list(deep.glob("repro-ports-*.lock"))


def test_seeds_run_first_each_alone_and_then_all_together(tmp_path):
    """A failing seed fails the chapter; seeds that ran are not run again when another joins."""
    project = make(tmp_path, scorecard=False)
    assert project.run(only="p2", seeds="0-1")[0] == 0
    lines = [" ".join(line.split(" ")[:-2]) for line in project.lines()]
    assert sorted(lines[:2]) == ["p2_01_slow [0] 1", "p2_01_slow [1] 1"]
    assert lines[2:] == ["p2_01_slow [0, 1] "]
    project.forget()
    assert project.run(only="p2", seeds="0-2")[0] == 0
    assert [" ".join(line.split(" ")[:-2]) for line in project.lines()] == ["p2_01_slow [2] 1", "p2_01_slow [0, 1, 2] "]
    project.put("p2_01_slow", "assert seeds != [1], 'seed one is wrong'", per_seed=True)
    assert project.run(only="p2", seeds="0-1")[0] == 1
    assert "seed one is wrong" in project.page("p2_01_slow").cells[1].source


def test_two_runs_at_once_do_each_chapter_once(tmp_path):
    project = make(tmp_path, scorecard=False)
    runs = [project.start(only="00,p2", SLOW="4") for _ in range(2)]
    shown = [run.communicate(timeout=90)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], shown
    assert sorted(project.ran()) == ["00_tour", "p2_01_slow"]


def test_a_kernel_that_dies_fails_its_chapter(tmp_path):
    project = make(tmp_path, scorecard=False)
    project.put("p2_01_slow", "os._exit(9)")
    assert project.run(only="p2")[0] == 1
    assert project.status("p2_01_slow")["error"]["ename"] == "KernelDied"
    assert project.ran().count("p2_01_slow") == 1  # a kernel that dies in a cell is not tried again


def test_a_process_is_known_again_when_the_clock_is_put_right(monkeypatch):
    """A time of day that jumps, after sleep or by a time server, must not pass for a run that ended."""
    owner = chapters.this_process()
    began = psutil.Process().create_time()
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: began + 3600)
    if Path("/proc/self/stat").exists():
        assert chapters.alive(owner)
    assert not chapters.alive({**owner, "created": owner["created"] + 100})
    assert not chapters.alive({**owner, "pid": 2**22 + 1})
