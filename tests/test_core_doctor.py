"""The doctor's words, with every probe replaced: it says what is there and what each tier still needs."""

import subprocess
import sys
import urllib.error
from types import SimpleNamespace

import pytest

from repro.core import doctor, hub, paths
from repro.core.errors import MissingInput


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A laptop: CPU torch, no GPU, no hub, data and model folders there. Tests change one thing each."""
    for name in doctor.REAL_SETS:
        (tmp_path / "data" / name).mkdir(parents=True)
    (tmp_path / "models" / "encoder").mkdir(parents=True)
    versions = {"torch": "2.13.0+cpu"}
    monkeypatch.setattr(doctor, "version_of", versions.get)
    answers = {"cores": 4, "free_memory": 16.0, "free_disk": 50.0, "gpus": [], "hub_answer": "no answer"}
    answers |= {"processor_has_bf16": False, "browser": None}
    for probe, answer in answers.items():
        monkeypatch.setattr(doctor, probe, lambda answer=answer: answer)
    monkeypatch.setattr(paths, "data_folder", lambda: tmp_path / "data")
    monkeypatch.setattr(paths, "models_folder", lambda: tmp_path / "models")
    monkeypatch.setattr(paths, "runs_folder", lambda: tmp_path / "runs" / "deeper")

    def change(versions_=None, **probes):
        versions.update(versions_ or {})
        for probe, answer in probes.items():
            monkeypatch.setattr(doctor, probe, lambda answer=answer: answer)

    return SimpleNamespace(change=change, folder=tmp_path, monkeypatch=monkeypatch)


def missing(tier):
    return doctor.missing_for_tiers(doctor.diagnose())[tier]


def test_a_laptop_runs_smoke_and_laptop_and_is_told_what_gpu_needs(machine):
    assert missing("smoke") == [] and missing("laptop") == []
    assert [line.split(":")[0] for line in missing("gpu")] == ["GPU", "vLLM", "hub"]
    text = doctor.report(doctor.diagnose())
    assert "laptop  ready" in text and "gpu     needs" in text and "EXTRAS=dev,gpu" in text


def test_without_data_and_hub_the_laptop_tier_says_how_to_get_data(machine):
    machine.monkeypatch.setattr(paths, "data_folder", lambda: None)
    assert any(paths.HOW_TO_GET_DATA in line for line in missing("laptop"))
    machine.change(hub_answer="reachable")
    assert missing("laptop") == [], "a hub stands in for both folders"


def test_a_missing_set_is_named(machine):
    (machine.folder / "data" / "llmbar").rmdir()
    (finding,) = [each for each in doctor.diagnose() if each.name == "data folder"]
    assert not finding.good and "missing: llmbar" in finding.seen


def test_a_variable_that_names_no_folder_is_a_finding_not_a_crash(machine):
    def nowhere():
        raise MissingInput("REPRO_DATA names no folder", where="nowhere", fix="set it")

    machine.monkeypatch.setattr(paths, "data_folder", nowhere)
    assert "REPRO_DATA names no folder" in doctor.report(doctor.diagnose())


def test_gpu_tier_needs_a_cuda_torch_and_paper_needs_eight_cards(machine):
    machine.change({"vllm": "0.31.0"}, gpus=["NVIDIA X, 80000 MiB"], hub_answer="reachable")
    assert [line.split(":")[0] for line in missing("gpu")] == ["torch for the GPU"]
    machine.change({"torch": "2.13.0", "nvidia-cudnn-cu13": "9"})
    assert missing("gpu") == []
    assert [line.split(":")[0] for line in missing("paper")] == ["GPUs"]
    machine.change(gpus=["NVIDIA X, 80000 MiB"] * 8)
    assert missing("paper") == []


@pytest.mark.parametrize(
    ("installed", "said"),
    [({"torch": "2.13.0+cpu"}, "2.13.0, CPU build"), ({"torch": "2.13.0+cu130"}, "2.13.0, CUDA build"),
     ({"torch": "2.13.0", "nvidia-cudnn-cu13": "9"}, "2.13.0, CUDA build"), ({}, None)],
)  # fmt: skip
def test_the_build_of_torch_is_read_from_what_is_installed(monkeypatch, installed, said):
    monkeypatch.setattr(doctor, "version_of", installed.get)
    assert doctor.torch_build() == said


@pytest.mark.parametrize("flags,has", [("flags : fpu avx512f avx512_bf16", True), ("flags : fpu avx512f", False)])
def test_bf16_is_read_from_the_processor_flags(monkeypatch, tmp_path, flags, has):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\n{flags}\nbugs : x\n")
    monkeypatch.setattr(doctor, "Path", lambda _: tmp_path / "cpuinfo")
    assert doctor.processor_has_bf16() is has
    monkeypatch.setattr(doctor, "Path", lambda _: tmp_path / "absent")
    assert doctor.processor_has_bf16() is None


def test_the_hub_is_not_asked_when_offline_is_set(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("asked all the same")

    monkeypatch.setattr(hub.urllib.request, "urlopen", refuse)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub.answer() == "switched off"


@pytest.mark.parametrize(
    ("problem", "said"),
    [(urllib.error.URLError("no route"), "no answer"), (TimeoutError(), "no answer"),
     (urllib.error.HTTPError("u", 405, "m", {}, None), "reachable"), (urllib.error.HTTPError("u", 403, "m", {}, None), "no answer")],
)  # fmt: skip
def test_the_hub_is_asked_once_for_three_seconds_at_most(monkeypatch, problem, said):
    waited = []

    def answer(request, timeout):
        waited.append((request.get_method(), timeout))
        raise problem

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(hub.urllib.request, "urlopen", answer)
    hub._ask.cache_clear()
    assert hub.answer() == said == hub.answer() and waited == [("HEAD", 3)]
    hub._ask.cache_clear()


def test_a_hanging_or_failing_nvidia_smi_means_no_gpu(monkeypatch):
    def hang(*_, **__):
        raise subprocess.TimeoutExpired("nvidia-smi", 20)

    monkeypatch.setattr(doctor.subprocess, "run", hang)
    assert doctor.gpus() == []
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=9, stdout="error text"))
    assert doctor.gpus() == []
    monkeypatch.setattr(
        doctor.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=0, stdout="A, 1 MiB\nB, 2 MiB\n")
    )
    assert doctor.gpus() == ["A, 1 MiB", "B, 2 MiB"]


def test_a_file_in_the_way_of_the_runs_folder_is_found(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(paths, "runs_folder", lambda: tmp_path / "file")
    assert not doctor.can_write_runs()
    monkeypatch.setattr(paths, "runs_folder", lambda: tmp_path / "new" / "runs")
    assert doctor.can_write_runs()


def test_looking_at_the_machine_imports_no_torch():
    code = "import sys; from repro.core import doctor; doctor.torch_build(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT / "src").returncode == 0
