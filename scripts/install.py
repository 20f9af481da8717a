"""Makes `.venv` and installs the project into it: pinned, torch first, and only when something changed.

Standard library only, and readable by old Pythons, so that they can say which Python is needed.
`python3 scripts/install.py --extras dev,gpu`; a second run with nothing changed takes a fraction of a second.
A killed run is taken up again: finished packages stay, half-written ones are removed, downloads are in pip's cache.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLDEST = (3, 11)
GIB = 2**30
ROOM = {"cpu": 3 * GIB, "gpu": 14 * GIB}  # a CPU environment measures 2 GiB; CUDA libraries add about 7, vLLM 3
CAUSES = (  # what pip's log says, in the words of whoever has to mend it
    (r"No space left on device|Errno 28", "the disk is full", "free a few GiB, or clone to a larger disk"),
    (r"Permission denied|Errno 13|Read-only file system", "a file cannot be written", "check who owns this folder"),
    (
        r"name resolution|establish a new connection|NewConnectionError|Name or service|nodename nor servname|"
        + r"Network is unreachable|Max retries exceeded|timed out",
        "the package index cannot be reached",
        "connect to the network, or set pip's index and proxy settings (PIP_INDEX_URL, HTTPS_PROXY)",
    ),
    (
        r"No matching distribution found|Could not find a version",
        "a pinned package has no build for this machine",
        "Python 3.11 to 3.13 on Linux (x86-64, arm64) or macOS 14+ on arm64 are served: make PYTHON=python3.12",
    ),
    (r"No module named venv|ensurepip is not available|No module named ensurepip",
     "this Python cannot make environments", "install its venv package (python3-venv on Debian and Ubuntu)"),
)  # fmt: skip


class InstallError(Exception):
    """What went wrong, and how to fix it, in one or two lines."""


def explain(log: str) -> str:
    """The cause of a failed command in plain words, from the end of its output."""
    for pattern, what, fix in CAUSES:
        if re.search(pattern, log):
            return f"{what}\n  {fix}"
    return "the last lines were:\n  " + "\n  ".join(log.strip().splitlines()[-5:])


def torch_route(plan: dict, has_gpu: bool) -> str:
    """How torch is installed, from pip's report of what it would do: `nothing`, `plain`, or `cpu` (CUDA without a GPU)."""
    names = [item["metadata"]["name"].lower() for item in plan["install"]]
    if "torch" not in names:
        return "nothing"
    needs_cuda = any(name.startswith(("nvidia-", "cuda-")) for name in names)
    return "cpu" if needs_cuda and not has_gpu else "plain"


def has_gpu() -> bool:
    """Whether nvidia-smi is here and lists a GPU."""
    if not shutil.which("nvidia-smi"):
        return False
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.returncode == 0 and "GPU" in listed.stdout


def parse_extras(text: str) -> list[str]:
    """`dev, gpu` as a sorted list; raises InstallError for an extra that pyproject.toml does not have."""
    names = sorted({name for name in re.split(r"[,\s]+", text) if name})
    section = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[project.optional-dependencies]")[1]
    known = re.findall(r"^([a-z]+) = \[", section.split("\n[")[0], flags=re.MULTILINE)
    for name in names:
        if name not in known:
            raise InstallError(f"EXTRAS={text}: {name} is unknown\n  known: {', '.join(known)}")
    return names


def fingerprint(extras: list[str], root: Path = ROOT) -> str:
    """Digest of all that decides what is installed: both files, the extras, and where the checkout lies."""
    digest = hashlib.sha256()
    for part in ((root / "pyproject.toml").read_bytes(), (root / "constraints.txt").read_bytes(),
                 ",".join(extras).encode(), str(root).encode()):  # fmt: skip
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def new_enough(candidates: list[str]) -> str | None:
    """The first of these Pythons that runs and is not older than OLDEST."""
    question = f"import sys; sys.exit(sys.version_info < {OLDEST})"
    for name in candidates:
        path = shutil.which(name)
        if path and subprocess.run([path, "-c", question], stderr=subprocess.DEVNULL).returncode == 0:
            return path
    return None


class Environment:
    """The folder `.venv`: is it whole, what is stamped on it, and commands run inside it with a line of progress."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.python = folder / "bin" / "python"
        self.stamp = folder / "installed.json"
        self.log = folder / "install.log"

    def works(self) -> bool:
        """Whether its Python starts, is new enough and has pip."""
        if not self.python.exists():
            return False
        question = f"import importlib.util, sys; sys.exit(sys.version_info < {OLDEST} or not importlib.util.find_spec('pip'))"
        return subprocess.run([str(self.python), "-c", question], stderr=subprocess.DEVNULL).returncode == 0

    def is_stamped(self, mark: str) -> bool:
        """Whether an installation with this fingerprint was finished here."""
        try:
            return json.loads(self.stamp.read_text())["fingerprint"] == mark
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def create(self, python: str) -> None:
        """Makes the folder anew, whatever was there."""
        if self.folder.is_symlink() or self.folder.is_file():
            self.folder.unlink()
        made = subprocess.run([python, "-m", "venv", "--clear", str(self.folder)], capture_output=True, text=True)
        if made.returncode:
            raise InstallError(f"{self.folder} could not be made: {explain(made.stdout + made.stderr)}")

    def drop_half_written(self) -> list[str]:
        """Removes the metadata of packages that a kill left without their file list, so that pip installs them again."""
        halves = [found for found in self.folder.glob("lib/*/site-packages/*.dist-info") if not (found / "RECORD").exists()]
        for half in halves:
            shutil.rmtree(half)
        return [half.name for half in halves]

    def run(self, label: str, *command: str) -> str:
        """Runs `python -m command`, keeps its output in the log, shows progress; returns what it printed."""
        hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX")
        settings = {key: value for key, value in os.environ.items() if key not in hidden}
        settings.update(PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1", PIP_PROGRESS_BAR="off")
        lines: list[str] = []
        with Progress(label, lines), open(self.log, "a", encoding="utf-8") as log:
            process = subprocess.Popen(
                [str(self.python), "-m", *command], cwd=str(ROOT), env=settings, text=True, errors="replace",
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            for line in process.stdout:
                log.write(line)
                lines.append(line.rstrip())
            status = process.wait()
        if status:
            raise InstallError(f"{label}: {explain(chr(10).join(lines))}\n  whole log: {self.log}")
        return "\n".join(lines)


class Progress:
    """One line with a clock: rewritten every second on a terminal, printed every 20 seconds elsewhere."""

    def __init__(self, label: str, lines: list[str]):
        self.label, self.lines = label, lines
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.show, daemon=True)

    def show(self) -> None:
        """Prints until the command has ended."""
        terminal, begin = sys.stdout.isatty(), time.monotonic()
        while not self.ended.wait(1 if terminal else 20):
            now = next((line.strip()[:60] for line in reversed(self.lines) if not line.startswith("WARNING")), "")
            text = f"  {self.label}: {time.monotonic() - begin:.0f} s  {now}"
            print(f"\r{text:<110}" if terminal else text, end="" if terminal else "\n", flush=True)
        if terminal:
            print(f"\r{'':<110}\r", end="")

    def __enter__(self) -> Progress:
        print(f"  {self.label} ...", flush=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()


def pinned(name: str) -> str:
    """`name==version` as constraints.txt has it."""
    return next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith(f"{name}=="))


def install_torch(environment: Environment, gpu: bool) -> None:
    """torch before all else: the CPU build where the ordinary one would bring CUDA libraries for no GPU."""
    torch, report = pinned("torch"), environment.folder / "plan.json"
    common = ("pip", "install", "--constraint", "constraints.txt")
    environment.run("asking pip which torch fits", *common, "--dry-run", "--report", str(report), torch)
    route = torch_route(json.loads(report.read_text()), gpu)
    if route == "cpu":
        try:
            environment.run("uv, which knows the CPU builds", *common, pinned("uv"))
            target = ("--python", str(environment.python))
            environment.run("torch, CPU build", "uv", "pip", "install", *target, "--torch-backend=cpu", torch)
            return
        except InstallError as problem:
            print(f"  the CPU build is out of reach, taking the ordinary one (about 3 GiB more to fetch)\n  {problem}")
    if route != "nothing":
        environment.run("torch", *common, torch)


def check_room(extras: list[str], gpu: bool) -> None:
    """Raises InstallError before the first download if the disk or the folder's permissions cannot do."""
    if not os.access(ROOT, os.W_OK):
        raise InstallError(f"{ROOT} cannot be written\n  check who owns it, or clone to a folder of your own")
    need, free = ROOM["gpu" if gpu or "gpu" in extras else "cpu"], shutil.disk_usage(ROOT).free
    if free < need:
        raise InstallError(f"{ROOT} has {free / GIB:.1f} GiB left, the environment needs {need / GIB:.0f}\n  free some space")


def install(extras: list[str], environment: Environment) -> None:
    """Brings the environment to what pyproject.toml, constraints.txt and the extras say; does nothing if it is there."""
    mark, whole = fingerprint(extras), environment.works()
    if whole and environment.is_stamped(mark):
        return
    begin, gpu = time.monotonic(), has_gpu()
    print(f"Installing into {environment.folder} (extras: {', '.join(extras) or 'none'}; GPU: {'yes' if gpu else 'no'})")
    if not whole:
        check_room(extras, gpu)
        print("  creating the environment ..." if not environment.folder.exists() else "  it is broken: creating it anew ...")
        environment.create(sys.executable)
    environment.stamp.unlink(missing_ok=True)
    for name in environment.drop_half_written():
        print(f"  an earlier run was cut off in {name}: once more")
    install_torch(environment, gpu)
    project = f".[{','.join(extras)}]" if extras else "."
    label = "the project and its packages"
    environment.run(label, "pip", "install", "--constraint", "constraints.txt", "--editable", project)
    stamp = {"fingerprint": mark, "extras": extras, "python": sys.version.split()[0]}
    environment.stamp.write_text(json.dumps(stamp) + "\n")
    print(f"Installed in {time.monotonic() - begin:.0f} s")


def only_one_at_a_time() -> int:
    """Waits until no other installation runs in this checkout; the lock goes when this process ends, however it ends."""
    import fcntl  # not on every system, and a too old Python must still be told so

    handle = os.open(str(ROOT), os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("Another installation is running here; waiting for it")
        fcntl.flock(handle, fcntl.LOCK_EX)
    return handle


def main(arguments: list[str] | None = None) -> int:
    """The command; returns 0, or 1 after one clear message."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--extras", default="dev", help="comma separated, of pyproject.toml's")
    options = parser.parse_args(arguments)
    if sys.version_info < OLDEST:
        newer = new_enough(["python3.13", "python3.12", "python3.11"])
        if newer:
            os.execv(newer, [newer, *sys.argv])
        print(f"Python {'.'.join(map(str, OLDEST))} or newer is needed; this is {sys.version.split()[0]}")
        print("  install one, then: make PYTHON=/where/it/is/python3.12")
        return 1
    try:
        extras = parse_extras(options.extras)
        only_one_at_a_time()
        install(extras, Environment(ROOT / ".venv"))
    except InstallError as problem:
        print(f"Installation stopped: {problem}", file=sys.stderr)
    except OSError as problem:
        print(f"Installation stopped: {explain(str(problem))}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nStopped; the same command takes it up where it was", file=sys.stderr)
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
