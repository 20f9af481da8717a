"""Steps and what they leave behind: run once, found again, never half-written, never used when damaged.

A step is a module-level function of one `Job` that writes files into `job.out`. Its key is made of the step's name, the
settings it was given, the digests of its inputs, the seed, and the source of the project modules it imports. It runs
in a temporary folder; the manifest is written last; the folder is renamed into place. `repro why` reads the manifests.
"""

import errno
import hashlib
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from repro.core import source
from repro.core.errors import ArtifactError, MissingInput
from repro.core.paths import runs_folder
from repro.core.progress import note
from repro.core.settings import Section

MANIFEST = "manifest.json"
HISTORY: list[dict[str, Any]] = []  # what this process computed or found, for the page's footer
STARTED = time.time()
REQUIRED = ("step", "key", "files", "settings", "inputs", "source", "seed", "seconds", "finished")
_digests: dict[tuple[str, int, int], str] = {}


@dataclass(frozen=True)
class Artifact:
    """A finished folder (or a file from outside), its key, and the digest of its contents."""

    path: Path
    step: str
    key: str
    digest: str
    manifest: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __truediv__(self, name: str) -> Path:
        return self.path / name


@dataclass(frozen=True)
class Job:
    """What a step is given: a folder to fill, a scratch folder that survives a kill, settings, inputs and a seed."""

    out: Path
    scratch: Path
    settings: Section
    inputs: Mapping[str, Artifact]
    seed: int | None


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes; read once per process while size and time stay the same."""
    state = path.stat()
    name = (str(path), state.st_size, state.st_mtime_ns)
    if name not in _digests:
        with path.open("rb") as stream:
            _digests[name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return _digests[name]


def canonical(value: Any) -> str:
    """JSON with sorted keys: equal values give equal text."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=lambda mapping: dict(mapping))


def _sha(value: Any) -> str:
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def _files(folder: Path) -> dict[str, Path]:
    return {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != MANIFEST}


def external(path: Path | str, pattern: str = "*") -> Artifact:
    """A file, or the files of a folder that match, from outside, known by the digest of its bytes.

    Raises MissingInput if nothing is there.
    """
    path = Path(path)
    files = (
        {path.name: path}
        if path.is_file()
        else {str(p.relative_to(path)): p for p in sorted(path.rglob(pattern)) if p.is_file()}
    )
    if not files:
        raise MissingInput("nothing there", where=path, fix="`repro doctor` says what is missing and how to get it")
    digest = _sha({name: file_digest(file) for name, file in files.items()})
    return Artifact(path, "external", digest[:16], digest, {"path": str(path), "pattern": pattern})


def step_name(step: Callable[[Job], None]) -> str:
    """room.module.function, without the package's name."""
    return f"{step.__module__.removeprefix('repro.')}.{step.__qualname__}"


def _source_of(step: Callable) -> dict[str, str]:
    """Digests of the modules that the step imports.

    Raises ArtifactError if one was edited after this process began: the code in memory is not the code on disk, and
    a result of the one must not be kept under the name of the other.
    """
    found = source.closure(step.__module__)
    for module in found:
        loaded = sys.modules.get(module)
        file = getattr(loaded, "__file__", None)
        if file and Path(file).stat().st_mtime > STARTED:
            fix = "restart the kernel (or run the command again), so that the new code runs"
            raise ArtifactError("was edited after this process imported it", where=module, fix=fix)
    return found or {step.__module__: file_digest(Path(sys.modules[step.__module__].__file__))}


def identity(step: Callable, settings: Mapping, inputs: Mapping[str, Artifact], seed: int | None) -> dict[str, Any]:
    """All that a result depends on; its hash is the key."""
    return {
        "step": step_name(step),
        "settings": json.loads(canonical(settings)),
        "inputs": {name: artifact.digest for name, artifact in inputs.items()},
        "seed": seed,
        "source": _source_of(step),
    }


def _open(folder: Path) -> Artifact:
    """A finished artifact, every file checked against the manifest. Raises ArtifactError naming what is damaged."""
    fix = "it will be rebuilt"
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        recorded, key = manifest["files"], manifest["key"]
        if lacking := [name for name in REQUIRED if name not in manifest]:
            raise KeyError(lacking[0])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"manifest unreadable ({type(error).__name__})", where=folder, fix=fix) from error
    present = _files(folder)
    if difference := set(present) ^ set(recorded):
        raise ArtifactError(f"files missing or added: {', '.join(sorted(difference))}", where=folder, fix=fix)
    for name, file in present.items():
        if file_digest(file) != recorded[name]:
            raise ArtifactError("contents differ from the manifest", where=file, fix=fix)
    return Artifact(folder, manifest["step"], key, _sha(recorded), manifest)


def _lock(folder: Path) -> FileLock:
    """Hold the artifact's lock; say so when another run holds it. A killed run's lock is released by the system."""
    lock = FileLock(folder.parent / f".{folder.name}.lock")
    try:
        lock.acquire(timeout=0.2)
    except Timeout:
        note(f"waiting   another run is computing {folder.parent.name}")
        lock.acquire()
    return lock


def _peak_mebibytes() -> float:
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _versions() -> dict[str, str]:
    names = ("repro", "torch", "transformers", "trl", "numpy", "scikit-learn")
    installed = {name.lower() for name in ("repro",)} | {d.metadata["Name"].lower() for d in metadata.distributions()}
    return {name: metadata.version(name) for name in names if name in installed and name != "repro"} | {
        "python": sys.version.split()[0]
    }


def _build(step: Callable[[Job], None], folder: Path, job: Job, parts: dict[str, Any]) -> None:
    """Run the step in its temporary folder and rename that into place, manifest last."""
    started = time.perf_counter()
    step(job)
    seconds = time.perf_counter() - started
    manifest = {
        **parts,
        "key": folder.name,
        "origin": getattr(job.settings, "origin", {}),
        "from": {
            name: {
                "path": str(a.path),
                "step": a.step,
                **({"pattern": a.manifest["pattern"]} if a.step == "external" else {}),
            }
            for name, a in job.inputs.items()
        },
        "files": {name: file_digest(file) for name, file in _files(job.out).items()},
        "seconds": round(seconds, 3),
        "peak_mebibytes": round(_peak_mebibytes()),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": _versions(),
    }
    (job.out / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False))
    os.replace(job.out, folder)
    shutil.rmtree(job.scratch, ignore_errors=True)


def _writing(folder: Path, error: OSError) -> ArtifactError:
    fixes = dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space, or set REPRO_RUNS to a larger disk")
    fix = fixes.get(error.errno, "make the folder writable, or set REPRO_RUNS to one that is")
    return ArtifactError(f"cannot be written: {error.strerror}", where=error.filename or folder, fix=fix)


def _folder(parts: Mapping[str, Any]) -> Path:
    return runs_folder() / "artifacts" / parts["step"] / _sha(parts)[:20]


def known(step: Callable, *, settings: Mapping, inputs: Mapping | None = None, seed: int | None = None) -> bool:
    """Whether `run` with the same arguments would find something there; it may still find it damaged."""
    return _folder(identity(step, settings, inputs or {}, seed)).exists()


def run(
    step: Callable[[Job], None],
    *,
    settings: Mapping[str, Any],
    inputs: Mapping[str, Artifact] | None = None,
    seed: int | None = None,
) -> Artifact:
    """The step's artifact: loaded and checked if it is there, computed otherwise; safe under several runs at once.

    Raises ArtifactError if the result cannot be written, and whatever the step raises; nothing half-written stays.
    """
    inputs = dict(inputs or {})
    settings = settings if isinstance(settings, Section) else Section(settings)
    parts = identity(step, settings, inputs, seed)
    folder = _folder(parts)
    label = step.__name__ + (f" (seed {seed})" if seed is not None else "")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = _lock(folder)
    except OSError as error:
        raise _writing(folder, error) from error
    try:
        if folder.exists():
            try:
                found = _open(folder)
            except ArtifactError as damage:
                note(f"damaged   {damage}")
                shutil.rmtree(folder)
            else:
                note(f"cached    {label}, {found.manifest['seconds']:.1f} s saved")
                _remember(found, cached=True)
                return found
        return _compute(step, folder, Section(settings, settings.origin), inputs, seed, parts, label)
    finally:
        lock.release()


def _compute(
    step: Callable, folder: Path, settings: Section, inputs: dict, seed: int | None, parts: dict, label: str
) -> Artifact:
    """Build under the lock, in a folder that no other run uses; clear away what a killed run left."""
    for left in folder.parent.glob(f".{folder.name}.*.tmp"):
        shutil.rmtree(left, ignore_errors=True)
    out, scratch = folder.parent / f".{folder.name}.{os.getpid()}.tmp", folder.parent / f".{folder.name}.scratch"
    try:
        out.mkdir()
        scratch.mkdir(exist_ok=True)
        note(f"computing {label}")
        _build(step, folder, Job(out, scratch, settings, inputs, seed), parts)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM):
            raise _writing(folder, error) from error
        raise
    finally:
        shutil.rmtree(out, ignore_errors=True)
    built = _open(folder)
    note(f"computed  {label} in {built.manifest['seconds']:.1f} s")
    _remember(built, cached=False)
    return built


def _remember(made: Artifact, *, cached: bool) -> None:
    kept = {name: made.manifest[name] for name in ("step", "key", "seed", "seconds")}
    HISTORY.append(kept | {"cached": cached})


def stored() -> list[Artifact]:
    """Every finished artifact whose manifest reads, oldest first; their files are not checked here."""
    found = []
    for file in (runs_folder() / "artifacts").glob(f"*/[!.]*/{MANIFEST}"):  # a folder with a dot is still being written
        try:
            manifest = json.loads(file.read_text())
            if all(name in manifest for name in REQUIRED):
                found.append(
                    Artifact(file.parent, manifest["step"], manifest["key"], _sha(manifest["files"]), manifest)
                )
        except (OSError, ValueError, KeyError, TypeError):
            note(f"damaged   {file.parent}: manifest unreadable")
    return sorted(found, key=lambda artifact: artifact.manifest["finished"])
