"""The source digest follows meaning: code counts, comments and docstrings do not, and nothing is imported to find out."""

import sys

import pytest

from repro.core import source


@pytest.fixture
def package(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "HOME", tmp_path)
    files = {
        "__init__.py": "",
        "room/__init__.py": "",
        "room/a.py": '"""Doc."""\nfrom repro.room import b\ndef f():\n    "doc"\n    from . import c\n    return c  # comment\n',
        "room/b.py": "X = 1\n",
        "room/c.py": "from repro.room.b import X\n",
        "room/d.py": "Y = 2\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def rewrite(file, old, new):
    file.write_text(file.read_text().replace(old, new) + "\n" * len(new))


def test_the_closure_holds_lazy_and_relative_imports_but_no_bystander(package):
    assert set(source.closure("repro.room.a")) == {
        "repro",
        "repro.room",
        "repro.room.a",
        "repro.room.b",
        "repro.room.c",
    }


def test_words_do_not_count_and_code_does(package):
    before = source.closure("repro.room.a")
    rewrite(package / "room/a.py", "Doc.", "Other words.")
    rewrite(package / "room/a.py", "# comment", "# another comment")
    assert source.closure("repro.room.a") == before
    rewrite(package / "room/b.py", "X = 1", "X = 2")
    changed = {name for name, digest in source.closure("repro.room.a").items() if before[name] != digest}
    assert changed == {"repro.room.b"}


def test_looking_imports_nothing():
    before = set(sys.modules)
    source.closure("repro.core.records")
    assert set(sys.modules) == before


def test_a_notebooks_imports_are_found():
    assert source.imports_of("from repro.core import records\nimport numpy") == {"repro.core", "repro.core.records"}
