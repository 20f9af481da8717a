"""Settings: `paper` declares every parameter, each further tier states only what differs, overrides come last.

A tier file holds `extends:` and sections of `key: value`; a section is a chapter's, or `shared`, whose keys every
section has. The comment behind a key says where the paper states it (paper.yaml) or why it differs (the others).
"""

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from repro.core.errors import SettingsError
from repro.core.paths import PARAMS


class Section(Mapping):
    """A chapter's resolved settings: a frozen mapping whose keys are attributes too, and which knows its origin."""

    def __init__(self, values: Mapping[str, Any], origin: Mapping[str, Any] | None = None):
        object.__setattr__(self, "_values", dict(values))
        object.__setattr__(self, "origin", dict(origin or {}))

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, key: str) -> Any:
        if key.startswith("_"):
            raise AttributeError(key)
        if key in self._values:
            return self._values[key]
        raise SettingsError(
            f"{key} is no parameter here", where=self.origin.get("section", "settings"), fix=_nearest(key, self._values)
        )

    def __setattr__(self, key: str, value: Any) -> None:
        raise SettingsError("settings do not change once resolved", where=key, fix="pass overrides instead")

    def __repr__(self) -> str:
        return f"Section({self._values})"

    def pick(self, *keys: str, **constants: Any) -> "Section":
        """The named parameters alone, and constants given by name: what a step depends on, and nothing else."""
        known = set(self.origin.get("constants", ())) | set(constants)
        return Section(
            {key: getattr(self, key) for key in keys} | constants, {**self.origin, "constants": sorted(known)}
        )

    def renamed(self, **keys: str) -> "Section":
        """The same settings with parameters under other names: renamed(max_tokens="prompt_tokens") reads one as the other."""
        renames = {**self.origin.get("renamed", {}), **keys}
        return Section(
            {**self._values, **{new: self[old] for new, old in keys.items()}}, {**self.origin, "renamed": renames}
        )


@dataclass(frozen=True)
class Settings:
    """A tier resolved: sections by name, with the overrides that were applied."""

    tier: str
    sections: Mapping[str, Mapping[str, Any]]
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def section(self, name: str) -> Section:
        """A chapter's settings, the shared ones among them. Raises SettingsError if there is no such section."""
        if name not in self.sections:
            raise SettingsError(f"{name} is no section", where=f"tier {self.tier}", fix=_nearest(name, self.sections))
        origin = {"tier": self.tier, "section": name, "overrides": dict(self.overrides)}
        return Section({**self.sections["shared"], **self.sections[name]}, origin)


def _nearest(wrong: str, right: Mapping[str, Any] | list[str]) -> str:
    close = difflib.get_close_matches(wrong, list(right), n=1, cutoff=0.5)
    return f"Did you mean {close[0]}?" if close else f"There are: {', '.join(right)}"


def tiers() -> list[str]:
    """The tiers there are, from the paper's scale down."""
    return sorted((file.stem for file in PARAMS.glob("*.yaml")), key=lambda name: len(_chain(name)))


def _number_in_disguise(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value) is not None


@lru_cache
def _read(file: Path, _mtime: int) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(file.read_text()) or {}
    except yaml.YAMLError as error:
        raise SettingsError(f"no YAML: {error}", where=file) from error
    for section, values in loaded.items():
        for key, value in values.items() if isinstance(values, dict) else ():
            if _number_in_disguise(value):
                raise SettingsError(
                    f"{section}.{key} reads as text", where=file.name, fix="write 5.0e-7, with a point, for a number"
                )
    return loaded


def _file(tier: str) -> Path:
    file = PARAMS / f"{tier}.yaml"
    if not re.fullmatch(r"[A-Za-z0-9_-]+", tier) or not file.is_file():
        raise SettingsError(
            f"{tier!r} is no tier", where="tier", fix=_nearest(tier, sorted(p.stem for p in PARAMS.glob("*.yaml")))
        )
    return file


def _chain(tier: str) -> list[str]:
    """The tier and those it extends, the root first."""
    chain = [tier]
    while parent := _read(_file(chain[0]), _file(chain[0]).stat().st_mtime_ns).get("extends"):
        if parent in chain:
            raise SettingsError(f"extends itself through {' > '.join(chain)}", where=f"params/{tier}.yaml")
        chain.insert(0, parent)
    return chain


def stated(tier: str) -> dict[str, dict[str, Any]]:
    """What one tier's own file states, section by section."""
    loaded = _read(_file(tier), _file(tier).stat().st_mtime_ns)
    return {section: dict(values or {}) for section, values in loaded.items() if section != "extends"}


def comments(tier: str) -> dict[tuple[str, str], str]:
    """The comment behind each key of a tier's file, by (section, key)."""
    found, section = {}, ""
    for line in _file(tier).read_text().splitlines():
        if match := re.match(r"^(\w+):", line):
            section = match[1]
        if match := re.match(r"^(?:  |\w+: \{)(\w+):[^#]*#\s*(.*)$", line):
            found[section, match[1]] = match[2].strip()
    return found


def _check(section: str, key: str, value: Any, declared: Mapping[str, Mapping[str, Any]], where: str) -> None:
    """Raise unless (section, key) is declared and the value is of the declared kind."""
    if section not in declared:
        raise SettingsError(f"{section} is no section", where=where, fix=_nearest(section, declared))
    if key not in declared[section]:
        fix = _nearest(key, {**declared["shared"], **declared[section]})
        raise SettingsError(f"{section}.{key} is unknown", where=where, fix=f"{fix} (declared in params/paper.yaml)")
    was = declared[section][key]
    numbers = (int, float)
    same = (
        type(value) is type(was)
        or None in (value, was)
        or (
            isinstance(value, numbers)
            and isinstance(was, numbers)
            and not isinstance(value, bool)
            and not isinstance(was, bool)
        )
    )
    if not same or _number_in_disguise(value):
        raise SettingsError(
            f"{section}.{key} is {value!r}", where=where, fix=f"give it a {type(was).__name__}, such as {was!r}"
        )


def load(tier: str, overrides: Mapping[str, Any] | None = None, chapter: str | None = None) -> Settings:
    """Resolve a tier: its chain from paper down, then the overrides, "section.key" or a key of the chapter (or shared).

    Raises SettingsError on an unknown tier, section or key (naming the nearest right one) or a value of another kind.
    """
    chain = _chain(tier)
    sections: dict[str, dict[str, Any]] = {}
    for name in chain:
        for section, values in stated(name).items():
            if name == chain[0]:
                sections[section] = dict(values)
                continue
            for key, value in values.items():
                _check(section, key, value, sections, f"params/{name}.yaml")
                sections[section][key] = value
    for dotted, value in (overrides or {}).items():
        section, _, key = dotted.rpartition(".")
        section = section or (
            chapter
            if chapter and dotted in sections.get(chapter, {})
            else "shared"
            if dotted in sections["shared"]
            else chapter or "shared"
        )
        _check(section, key, value, sections, "overrides")
        sections[section][key] = value
    return Settings(tier, sections, json.loads(json.dumps(dict(overrides or {}))))
