"""What this machine can run, in plain words, and what is missing for the next tier.

Every probe is one small function that looks and never raises; `diagnose` turns what they saw into findings.
Nothing heavy is imported: torch and vLLM are looked up by the metadata of their installation.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from repro.core import paths
from repro.core.errors import MissingInput
from repro.core.hub import answer as hub_answer

GIB = 2**30
REAL_SETS = ("hh-rlhf", "pku-saferlhf", "alpaca_eval", "llmbar")  # what the chapters on real text read
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16", "svebf16"}


@dataclass(frozen=True)
class Finding:
    """One thing looked at: its name, what was seen in words, whether it is good, and how to mend it if not."""

    name: str
    seen: str
    good: bool
    fix: str = ""


def version_of(package: str) -> str | None:
    """The installed version of a package, without importing it; None if absent."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> float:
    """Memory that programs can still have, in GiB."""
    import psutil

    return psutil.virtual_memory().available / GIB


def free_disk() -> float:
    """Room where the project's folder lies, in GiB."""
    return shutil.disk_usage(paths.ROOT).free / GIB


def gpus() -> list[str]:
    """One line `name, memory` for each GPU that nvidia-smi lists; empty without one."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in listed.stdout.splitlines() if line.strip()] if listed.returncode == 0 else []


def torch_build() -> str | None:
    """`2.13.0, CPU build` or `2.13.0, CUDA build`; None without torch. A CUDA build brings NVIDIA's packages along."""
    version = version_of("torch")
    if version is None:
        return None
    cuda = "+cu" in version or version_of("nvidia-cudnn-cu13") or version_of("nvidia-cudnn-cu12")
    return f"{version.split('+')[0]}, {'CUDA' if cuda else 'CPU'} build"


def processor_has_bf16() -> bool | None:
    """Whether the processor multiplies bf16 in hardware; None where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return None
    flags = {
        flag for line in lines if line.lower().startswith(("flags", "features")) for flag in line.split(":")[1].split()
    }
    return bool(flags & BF16_FLAGS)


def folders_in(folder: Path | None) -> list[str]:
    """Names of the folders inside a folder, sorted; empty if there is none."""
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder else []


def can_write_runs() -> bool:
    """Whether results can be written: the runs folder, or the nearest folder above it that exists."""
    folder = paths.runs_folder().absolute()
    while not folder.exists():
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def browser() -> str | None:
    """Path of a Chromium for the browser tests; None without one."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def _machine() -> list[Finding]:
    python, memory, disk, build, bf16 = (
        sys.version.split()[0],
        free_memory(),
        free_disk(),
        torch_build(),
        processor_has_bf16(),
    )
    precision = {
        True: "yes, bf16 is up to three times faster",
        False: "no, fp32 is the precision here",
        None: "not known",
    }
    return [
        Finding("Python", python, sys.version_info >= (3, 11), "install Python 3.11 to 3.13"),
        Finding("cores", str(cores()), True),
        Finding("memory free", f"{memory:.1f} GiB", memory >= 4, "close programs, or run with JOBS=1"),
        Finding("disk free", f"{disk:.1f} GiB", disk >= 2, "`make clean`, or set REPRO_RUNS to a larger disk"),
        Finding("torch", build or "not installed", build is not None, "`make install`"),
        Finding("bf16 in the processor", precision[bf16], True),
    ]


def _accelerators() -> list[Finding]:
    cards, build, vllm = gpus(), torch_build() or "", version_of("vllm")
    findings = [
        Finding("GPU", "; ".join(cards) or "none", bool(cards), "a machine with an NVIDIA GPU and its driver"),
        Finding("vLLM", vllm or "not installed", vllm is not None, "on a GPU machine: `make install EXTRAS=dev,gpu`"),
    ]
    if cards and "CUDA" not in build:
        findings.append(
            Finding("torch for the GPU", build or "not installed", False, "delete .venv, then `make install`")
        )
    return findings


def _folder(name: str, find: Callable[[], Path | None], wanted: tuple[str, ...], fix: str) -> Finding:
    """A finding on the data or models folder: what lies in it, and what is wanted and missing."""
    try:
        folder = find()
    except MissingInput as problem:
        return Finding(name, problem.what, False, f"{problem.fix}")
    present = folders_in(folder)
    missing = [each for each in wanted if each not in present]
    seen = f"{folder}: {', '.join(present) or 'empty'}" if folder else "none"
    if missing and folder:
        seen += f" (missing: {', '.join(missing)})"
    return Finding(name, seen, bool(present) and not missing, fix)


def _inputs() -> list[Finding]:
    answer, writable, chromium = hub_answer(), can_write_runs(), browser()
    fix = (
        "unset HF_HUB_OFFLINE" if answer == "switched off" else "a network that reaches it, or fill both folders below"
    )
    runs = paths.runs_folder()
    return [
        Finding("hub", answer, answer == "reachable", fix),
        _folder("data folder", paths.data_folder, REAL_SETS, paths.HOW_TO_GET_DATA),
        _folder("models folder", paths.models_folder, (), paths.HOW_TO_GET_MODELS),
        Finding(
            "results",
            f"{runs} {'can' if writable else 'cannot'} be written",
            writable,
            "set REPRO_RUNS to a folder of yours",
        ),
        Finding(
            "browser for tests", chromium or "none, those tests are skipped", chromium is not None, "install chromium"
        ),
    ]


def diagnose() -> list[Finding]:
    """Look at this machine: processor, memory, GPU, hub, data, models and what can be written."""
    return [*_machine(), *_accelerators(), *_inputs()]


def missing_for_tiers(findings: list[Finding]) -> dict[str, list[str]]:
    """For each tier, what stands in its way, as one line each; an empty list means it can run."""
    found = {finding.name: finding for finding in findings}

    def bad(*names: str) -> list[str]:
        return [
            f"{name}: {found[name].seen} ({found[name].fix})"
            for name in names
            if name in found and not found[name].good
        ]

    base = bad("Python", "torch", "disk free", "results")
    online = found["hub"].good
    laptop = base + bad("memory free") + ([] if online else bad("data folder", "models folder"))
    gpu = base + bad("GPU", "torch for the GPU", "vLLM", "hub")
    cards = found["GPU"].seen.count(";") + 1 if found["GPU"].good else 0
    many = (
        []
        if cards >= 8
        else [f"GPUs: {cards} (the published recipes count on 8; fewer take longer, a cluster profile helps)"]
    )
    return {"smoke": base, "laptop": laptop, "gpu": gpu, "paper": gpu + many}


def report(findings: list[Finding]) -> str:
    """The findings as aligned lines, then one line a tier: ready, or what is missing."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{'ok' if finding.good else '--'}  {finding.name:<{width}}  {finding.seen}")
        if not finding.good and finding.fix:
            lines.append(f"{'':<{width + 6}}{finding.fix}")
    lines.append("")
    for tier, missing in missing_for_tiers(findings).items():
        lines.append(f"{tier:<7} {'ready' if not missing else 'needs'}")
        lines += [f"        - {line}" for line in missing]
    return "\n".join(lines)
