"""What made an artifact stale: the setting, input or line of source that differs from when it was computed."""

from pathlib import Path

from repro.core import settings as settings_module
from repro.core import source
from repro.core.artifacts import Artifact, external, stored
from repro.core.errors import ReproError, SettingsError


def _setting_changes(artifact: Artifact) -> list[str]:
    """Settings that resolve to another value today than the artifact was made with."""
    origin, made_with = artifact.manifest.get("origin") or {}, artifact.manifest["settings"]
    if "section" not in origin:
        return []
    try:
        now = settings_module.load(origin["tier"], origin["overrides"], origin["section"]).section(origin["section"])
    except SettingsError as error:
        return [f"its settings no longer resolve: {error}"]
    changed = []
    for key, value in made_with.items():
        source = origin.get("renamed", {}).get(key, key)
        if key not in origin.get("constants", ()) and source in now and now[source] != value:
            changed.append(f"setting {source} is {now[source]!r} now, was {value!r}")
    return changed


def _source_changes(artifact: Artifact) -> list[str]:
    """Modules that say something else today, are gone, or joined."""
    then = artifact.manifest["source"]
    now = source.closure("repro." + artifact.step.rsplit(".", 1)[0])
    if not now:
        return [] if artifact.step.startswith("test") else [f"its module {artifact.step.rsplit('.', 1)[0]} is gone"]
    words = {True: "module {} changed", False: "module {} is imported now and was not, or no longer"}
    return [
        words[name in then and name in now].format(name)
        for name in sorted(set(then) | set(now))
        if then.get(name) != now.get(name)
    ]


def _input_changes(artifact: Artifact, known: dict[str, Artifact]) -> list[str]:
    """Inputs that are gone, differ, or are stale themselves."""
    found = []
    for name, origin in artifact.manifest.get("from", {}).items():
        path, digest = Path(origin["path"]), artifact.manifest["inputs"][name]
        if origin["step"] == "external":
            try:
                changed = external(path, origin["pattern"]).digest != digest
            except ReproError:
                changed = True
            found += [f"input {name} differs: {path}"] if changed else []
        elif str(path) not in known:
            found.append(f"input {name} ({origin['step']}) is gone")
        else:
            found += [f"input {name} ({origin['step']}): {reason}" for reason in reasons(known[str(path)], known)]
    return found


def reasons(artifact: Artifact, known: dict[str, Artifact]) -> list[str]:
    """Every reason for which the artifact would be computed anew today; none if it is current."""
    return _setting_changes(artifact) + _source_changes(artifact) + _input_changes(artifact, known)


def explain(name: str) -> str:
    """For each step whose name holds `name`, and each seed and tier: current, or what made it stale.

    Raises SettingsError if no stored step is called so.
    """
    everything = stored()
    known = {str(artifact.path): artifact for artifact in everything}
    steps = sorted({artifact.step for artifact in everything})
    newest: dict[tuple, Artifact] = {}
    for artifact in everything:
        origin = artifact.manifest.get("origin") or {}
        if name in artifact.step or str(origin.get("section", "")).startswith(name):
            inputs = tuple(
                sorted(str(o["path"]) for o in artifact.manifest.get("from", {}).values() if o["step"] == "external")
            )
            newest[artifact.step, artifact.manifest["seed"], origin.get("tier"), origin.get("section"), inputs] = (
                artifact
            )
    if not newest:
        raise SettingsError(
            f"no stored step is called {name!r}", where="repro why", fix=f"There are: {', '.join(steps) or 'none yet'}"
        )
    lines = []
    for (step, seed, tier, *_), artifact in newest.items():
        label = ", ".join([step] + ([f"seed {seed}"] if seed is not None else []) + ([f"tier {tier}"] if tier else []))
        found = reasons(artifact, known)
        lines.append(
            f"{label}: {'stale' if found else 'current'} (computed {artifact.manifest['finished']}, {artifact.manifest['seconds']:.1f} s)"
        )
        lines += [f"  {reason}" for reason in found]
    return "\n".join(lines)
