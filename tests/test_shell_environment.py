"""One environment, stated once: pyproject, constraints, environment.yml, licence and citation agree."""

import ast
import re
import sys
import tomllib
from importlib import metadata
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
PINS = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")
)
OUTSIDE_THE_CONSTRAINTS = {"vllm"}  # pinned in its extra; drags in 130 packages that only a GPU machine needs


def requirements() -> list[Requirement]:
    return [Requirement(line) for line in chain(PROJECT["dependencies"], *EXTRAS.values())]


@pytest.mark.parametrize("requirement", requirements(), ids=lambda requirement: requirement.name)
def test_every_dependency_has_one_pin_that_it_accepts(requirement):
    name = canonicalize_name(requirement.name)
    if name in OUTSIDE_THE_CONSTRAINTS:
        assert re.fullmatch(r"==[\d.]+", str(requirement.specifier))
    else:
        assert requirement.specifier.contains(PINS[name]), f"{requirement} against {PINS[name]}"


def test_every_runtime_dependency_says_why_it_is_there():
    body = (ROOT / "pyproject.toml").read_text().split("\ndependencies = [")[1].split("\n]")[0]
    lines = [line for line in body.splitlines() if line.strip().startswith('"')]
    assert len(lines) == len(PROJECT["dependencies"])
    assert [line for line in lines if not re.search(r'",\s+# \w+', line)] == []


def test_pins_are_plain_sorted_and_given_once():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines == sorted(lines, key=lambda line: line.split("==")[0]) and len(lines) == len(PINS)
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][a-z0-9.]*", line)] == []


def test_the_set_that_serves_cpu_gpu_and_vllm_together():
    assert PINS["torch"] == "2.13.0" and PINS["trl"] == "1.16.0"
    assert SpecifierSet(">=5.10.4,<5.18").contains(PINS["transformers"]), "vLLM 0.31.0's range"
    assert SpecifierSet("<2.4").contains(PINS["numpy"]), "vLLM 0.31.0's range, through mistral-common"
    assert SpecifierSet("<4").contains(PINS["soupsieve"]), "4 refuses Python 3.11.0 to 3.11.4"


def test_extras_licence_and_command_are_as_promised():
    assert set(EXTRAS) == {"gpu", "dev"}
    assert EXTRAS["gpu"] == ["vllm==0.31.0"]
    assert {Requirement(line).name for line in EXTRAS["dev"]} == {
        "pytest",
        "pytest-xdist",
        "nbval",
        "playwright",
        "hypothesis",
        "ruff",
    }
    assert PROJECT["scripts"] == {"repro": "repro.cli:main"}
    assert PROJECT["license"] == "Apache-2.0" and PROJECT["requires-python"] == ">=3.11"
    licence = (ROOT / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in licence and "END OF TERMS AND CONDITIONS" in licence


def test_conda_users_get_the_same_set():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    names = [line.split("=")[0] for line in conda if isinstance(line, str)]
    assert names == ["python", "make", "pip"], "packages come from pip, under the same pins"
    python = next(line.split("=")[1] for line in conda if isinstance(line, str) and line.startswith("python="))
    assert SpecifierSet(PROJECT["requires-python"]).contains(python)
    (pip,) = (line["pip"] for line in conda if isinstance(line, dict))
    assert pip == ["--constraint constraints.txt", "--editable .[dev]"]


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt", "environment.yml", "Makefile", "scripts/install.py"])
def test_no_host_and_no_path_of_a_machine(name):
    text = (ROOT / name).read_text()
    assert re.findall(r"https?://|file:|--(?:extra-)?index-url|--find-links|/home/|/Users/", text) == []


def test_citation_names_the_three_papers_and_invents_nobody():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["message"] and citation["title"]
    assert citation["authors"] == [{"name": "The repro contributors"}]
    assert citation["version"] == PROJECT["version"] and citation["license"] == PROJECT["license"]
    references = citation["references"]
    assert all(reference["type"] and reference["title"] and reference["authors"] for reference in references)
    for end, reference in zip(("2406.16486", "2405.07863", "iamWnRpMuQ"), references, strict=True):
        assert reference["url"].endswith(end)
    assert len(references[0]["authors"]) == 9


def test_every_package_that_the_source_imports_is_declared():
    """What arrives only in another package's luggage can leave with it."""
    declared = {canonicalize_name(requirement.name) for requirement in requirements()}
    carriers = metadata.packages_distributions()
    undeclared = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            for top in {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"repro"}:
                if not declared & {canonicalize_name(each) for each in carriers.get(top, [top])}:
                    undeclared.add(f"{path.name}: {top}")
    assert undeclared == set()
