"""scripts/install.py: which torch, what is redone and what not, and errors in plain words. Nothing is downloaded here."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("install", ROOT / "scripts" / "install.py")
installer = importlib.util.module_from_spec(spec)
spec.loader.exec_module(installer)


def plan(*names: str) -> dict:
    """A report as `pip install --dry-run --report` writes it, reduced to what is read."""
    return {"version": "1", "install": [{"metadata": {"name": name, "version": "1"}} for name in names]}


@pytest.mark.parametrize(
    ("names", "gpu", "route"),
    [
        (["torch", "sympy", "nvidia-cudnn-cu13", "triton"], False, "cpu"),
        (["torch", "cuda-toolkit", "cuda-bindings"], False, "cpu"),
        (["torch", "nvidia-cudnn-cu13"], True, "plain"),
        (["torch", "sympy"], False, "plain"),  # macOS, or an index whose build is for the CPU already
        (["sympy", "nvidia-cudnn-cu13"], False, "nothing"),  # torch is there, only companions are wanted
        ([], False, "nothing"),
    ],
)
def test_the_cpu_build_is_taken_only_where_cuda_would_come_without_a_gpu(names, gpu, route):
    assert installer.torch_route(plan(*names), gpu) == route


class Recorder(installer.Environment):
    """An environment whose commands are written down instead of run; `failing` names a label that fails."""

    def __init__(self, folder, report=None, failing=None):
        super().__init__(folder)
        self.commands, self.report, self.failing = [], report, failing

    def works(self):
        return self.folder.exists()

    def create(self, python):
        self.folder.mkdir()

    def run(self, label, *command):
        self.commands.append(" ".join(command))
        if self.failing and self.failing in label:
            raise installer.InstallError(f"{label}: out of reach")
        if "--report" in command:
            (self.folder / "plan.json").write_text(json.dumps(self.report))
        return ""


@pytest.fixture
def checkout(monkeypatch, tmp_path):
    """A checkout with the three files that the installer reads, on a machine without a GPU."""
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.setattr(installer, "ROOT", tmp_path)
    monkeypatch.setattr(installer, "fingerprint", lambda extras, f=installer.fingerprint: f(extras, tmp_path))
    monkeypatch.setattr(installer, "has_gpu", lambda: False)
    return tmp_path


def test_torch_comes_first_from_the_cpu_builds_then_the_project_under_constraints(checkout):
    environment = Recorder(checkout / ".venv", plan("torch", "nvidia-cudnn-cu13"))
    installer.install(["dev"], environment)
    ask, get_uv, torch, project = environment.commands
    assert "--dry-run" in ask and "uv==" in get_uv
    assert torch.startswith("uv pip install") and torch.endswith("--torch-backend=cpu torch==2.13.0")
    assert project == "pip install --constraint constraints.txt --editable .[dev]"


def test_cpu_builds_out_of_reach_fall_back_to_the_ordinary_one(checkout, capsys):
    environment = Recorder(checkout / ".venv", plan("torch", "nvidia-cudnn-cu13"), failing="CPU build")
    installer.install([], environment)
    assert environment.commands[-2:] == [
        "pip install --constraint constraints.txt torch==2.13.0",
        "pip install --constraint constraints.txt --editable .",
    ]
    assert "out of reach" in capsys.readouterr().out


def test_nothing_runs_again_until_a_pin_an_extra_or_the_place_changes(checkout):
    environment = Recorder(checkout / ".venv", plan("torch"))
    installer.install(["dev"], environment)
    environment.commands.clear()
    installer.install(["dev"], environment)
    assert environment.commands == []
    installer.install(["dev", "gpu"], environment)
    assert environment.commands[-1].endswith(".[dev,gpu]")
    with open(checkout / "constraints.txt", "a") as file:
        file.write("zzz==1\n")
    environment.commands.clear()
    installer.install(["dev", "gpu"], environment)
    assert environment.commands != []


def test_a_failure_leaves_no_stamp_so_the_next_run_goes_on(checkout):
    environment = Recorder(checkout / ".venv", plan("torch"), failing="the project")
    with pytest.raises(installer.InstallError):
        installer.install(["dev"], environment)
    assert not environment.stamp.exists()
    environment.failing = None
    installer.install(["dev"], environment)
    assert environment.is_stamped(installer.fingerprint(["dev"]))


def test_the_fingerprint_moves_with_the_checkout(checkout, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("moved")
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(checkout / name, elsewhere / name)
    spec.loader.exec_module(fresh := importlib.util.module_from_spec(spec))
    assert fresh.fingerprint(["dev"], checkout) != fresh.fingerprint(["dev"], elsewhere)
    assert fresh.fingerprint(["dev"], checkout) != fresh.fingerprint([], checkout)


def test_a_package_cut_off_by_a_kill_is_removed_and_whole_ones_stay(tmp_path):
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    for name, whole in (("half-1.dist-info", False), ("whole-1.dist-info", True)):
        (packages / name).mkdir(parents=True)
        (packages / name / "METADATA").write_text("Name: x")
        if whole:
            (packages / name / "RECORD").write_text("")
    assert installer.Environment(tmp_path).drop_half_written() == ["half-1.dist-info"]
    assert [entry.name for entry in packages.iterdir()] == ["whole-1.dist-info"]


def test_a_dangling_or_damaged_python_counts_as_broken_and_a_real_one_works(tmp_path):
    environment = installer.Environment(tmp_path / ".venv")
    assert not environment.works()
    environment.create(sys.executable)
    assert environment.works()
    environment.python.unlink()
    environment.python.symlink_to(tmp_path / "gone")
    assert not environment.works()
    environment.create(sys.executable)
    assert environment.works(), "made anew over the broken one"


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        ("ERROR: [Errno 13] Permission denied: 'x'", "cannot be written"),
        ("NewConnectionError: [Errno -3]\nERROR: No matching distribution found for torch==2.13.0", "index cannot be reached"),
        ("ERROR: No matching distribution found for torch==2.13.0", "no build for this machine"),
        ("The virtual environment was not created because ensurepip is not available.", "python3-venv"),
        ("something\nnobody foresaw", "nobody foresaw"),
    ],
)  # fmt: skip
def test_pips_errors_become_a_cause_and_a_fix(log, words):
    assert words in installer.explain(log)


def test_a_full_disk_and_a_read_only_folder_are_said_before_any_download(checkout, monkeypatch):
    monkeypatch.setattr(installer.shutil, "disk_usage", lambda _: SimpleNamespace(free=2**30))
    with pytest.raises(installer.InstallError, match="1.0 GiB left"):
        installer.install([], Recorder(checkout / ".venv"))
    monkeypatch.setattr(installer.os, "access", lambda *_: False)
    with pytest.raises(installer.InstallError, match="cannot be written"):
        installer.install([], Recorder(checkout / ".venv"))


def test_extras_are_sorted_and_an_unknown_one_is_named():
    assert installer.parse_extras("gpu, dev dev") == ["dev", "gpu"]
    assert installer.parse_extras("") == []
    with pytest.raises(installer.InstallError, match="known: gpu, dev"):
        installer.parse_extras("dev,gpus; echo hello")


def test_a_failing_command_shows_its_cause_and_its_log(tmp_path):
    environment = installer.Environment(tmp_path)
    environment.python = Path(sys.executable)
    with pytest.raises(installer.InstallError, match="no_such_module_here[\\s\\S]*install.log"):
        environment.run("a step", "no_such_module_here")


def test_too_old_a_python_finds_a_newer_one_or_says_so(monkeypatch, capsys):
    assert installer.new_enough(["no-such-python", sys.executable]) == sys.executable
    monkeypatch.setattr(installer, "OLDEST", (99, 0))
    assert installer.main([]) == 1
    assert "99.0 or newer is needed" in capsys.readouterr().out


def make(*arguments: str, folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True)


def test_plain_make_explains_every_target():
    said = make(folder=ROOT).stdout
    for target in ("install", "reproduce", "test", "lab", "book", "bench", "clean"):
        assert any(line.split()[:1] == [target] and len(line.split()) > 3 for line in said.splitlines()), target


def test_odd_values_reach_the_commands_whole_and_break_no_shell(tmp_path):
    """The recipes run in a copy whose commands only print what they were given."""
    folder = tmp_path / "a folder; with 'signs'"
    (folder / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    for name in ("repro", "python"):
        tool = folder / ".venv" / "bin" / name
        tool.write_text('#!/bin/sh\nfor value in "$@"; do printf "<%s>" "$value"; done\n')
        tool.chmod(0o755)
    odd = "p1 'x' \"y\"; touch broken #`touch broken`"
    ran = make("reproduce", "PYTHON=true", f"ONLY={odd}", "TIER=a b", "SEEDS=0-2", folder=folder)
    assert ran.returncode == 0, ran.stderr
    assert f"<run><--tier><a b><--seeds><0-2><--jobs><0><--only><{odd}>" in ran.stdout
    assert f"<{odd}>" in make("bench", "PYTHON=true", f"ONLY={odd}", folder=folder).stdout
    assert "<--only>" not in make("reproduce", "PYTHON=true", folder=folder).stdout
    assert not list(folder.rglob("broken"))
