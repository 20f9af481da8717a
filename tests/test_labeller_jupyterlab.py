"""The labeller in a real JupyterLab in headless Chromium: ten pairs by keys and buttons, a killed kernel, and on."""

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from repro.judges.human import read_labels

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = next((Path(place) for place in ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome") if Path(place).exists()), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
WAIT = 240_000  # milliseconds; a few seconds on a machine that is not busy
HOSTILE = "<img src=x onerror=\"document.title='taken over'\"><script>document.title='taken over'</script> **{}**"
CELL = """from types import SimpleNamespace
from repro.judges.labeller import labeller
pairs = [SimpleNamespace(prompt=(("user", f"Question {n}?"),), chosen=HOSTILE.format(f"yes {n}"), rejected=f"no {n}") for n in range(10)]
labeller(pairs, "labels.jsonl", annotator="one")"""


def notebook(folder, *cells):
    """A notebook of these code cells."""
    made = [{"cell_type": "code", "id": f"cell-{n}", "metadata": {}, "source": cell, "outputs": [], "execution_count": None} for n, cell in enumerate(cells)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    body = {"cells": made, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    (folder / "label.ipynb").write_text(json.dumps(body))


@contextmanager
def jupyterlab(folder, theme="JupyterLab Light"):
    """A server of its own on a free port, with nothing read from or left in the user's folders: its process and address."""
    settings = folder / ".lab" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
    (settings / "themes.jupyterlab-settings").write_text(json.dumps({"theme": theme}))
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    places = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "JUPYTERLAB_WORKSPACES_DIR")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **{place: str(folder / ".jupyter" / place) for place in places}}
    environment = {**environment, "JUPYTERLAB_SETTINGS_DIR": str(folder / ".lab")} | {"OMP_NUM_THREADS": "1"}
    environment.pop("REPRO_BATCH", None)
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"]
    command += ["--ServerApp.port_retries=0", "--IdentityProvider.token=here", f"--ServerApp.root_dir={folder}"]
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        for _ in range(600):
            with socket.socket() as door:
                if door.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, (folder / "server.log").read_text()
            time.sleep(0.2)
        yield server, f"http://127.0.0.1:{port}/lab/tree/label.ipynb?token=here"
    finally:
        ours = [*psutil.Process(server.pid).children(recursive=True), psutil.Process(server.pid)]
        for process in ours:
            process.kill()
        psutil.wait_procs(ours, timeout=10)
        server.wait(timeout=10)


@contextmanager
def chromium(**options):
    """A page of a headless browser."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; `pip install playwright` brings it")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        page = browser.new_context(**options).new_page()
        page.set_default_timeout(WAIT)
        yield page
        browser.close()


class Person:
    """Someone in front of the page, who remembers what was shown and what was chosen."""

    def __init__(self, page):
        self.page, self.tool, self.said = page, page.locator(".repro-labeller"), []

    def run(self, done):
        """Run the notebook's cell, once a kernel is there, and wait until the tool says how many are labelled."""
        self.page.locator("#jp-main-statusbar").get_by_text("| Idle").wait_for()
        self.page.locator(".jp-Notebook .jp-Cell .cm-content").first.click()
        self.page.locator(".jp-Notebook.jp-mod-editMode").wait_for()
        self.page.keyboard.press("Control+Enter")
        self.sees(done)

    def sees(self, done):
        self.tool.get_by_text(f"{done} of 10 labelled", exact=True).wait_for()

    def shown(self):
        return [self.tool.locator(".repro-labeller-text").nth(n).text_content() for n in range(3)]

    def choose(self, label, press):
        shown, done = self.shown(), len(self.said)
        press()
        self.sees(done + 1)
        self.said.append((*shown, label))

    def key(self, label, key):
        self.choose(label, lambda: self.page.keyboard.press(key))

    def button(self, label, words):
        self.choose(label, lambda: self.tool.get_by_role("button", name=words).click())

    def undo(self):
        self.page.keyboard.press("Backspace")
        self.sees(len(self.said) - 1)
        assert self.shown() == list(self.said.pop()[:3])


def kill_the_kernel(server, page):
    """As a machine does that runs out of memory; JupyterLab starts another one by itself and says so."""
    (kernel,) = [each for each in psutil.Process(server.pid).children(recursive=True) if "ipykernel_launcher" in " ".join(each.cmdline())]
    kernel.kill()
    page.locator(".jp-Dialog").get_by_role("button", name="Ok").click()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine; `apt-get install chromium` brings it")
def test_ten_pairs_are_labelled_though_the_kernel_dies_on_the_way(tmp_path):
    notebook(tmp_path, f"HOSTILE = {HOSTILE!r}\n{CELL}")
    with jupyterlab(tmp_path) as (server, address), chromium() as page:
        page.goto(address)
        person = Person(page)
        person.run(done=0)
        assert any("<img" in text for text in person.shown()) and person.tool.locator("img, script, strong").count() == 0
        person.tool.locator(".repro-labeller-hint").click()
        for label, key in (("first", "ArrowLeft"), ("second", "b"), ("tie", "t"), ("skip", "s")):
            person.key(label, key)
        person.undo()
        person.button("second", "B is better")
        person.key("first", "a")  # the focus came back to the tool
        page.keyboard.press("x")  # no key of ours, and JupyterLab must not cut the cell either
        assert page.locator(".jp-Notebook .jp-Cell").count() == 1 and page.title() != "taken over"
        before = person.shown()

        kill_the_kernel(server, page)
        person.tool.get_by_role("button", name="B is better").click()
        person.tool.get_by_text("Not saved").wait_for()
        person.run(done=5)
        assert person.shown() == before
        person.tool.locator(".repro-labeller-hint").click()
        person.key("second", "ArrowRight")
        person.button("tie", "Tie")

        page.keyboard.press("Control+s")
        page.locator(".jp-mod-current[title*='label.ipynb']:not(.jp-mod-dirty)").wait_for()
        page.reload()
        person.sees(7)
        person.button("skip", "Skip")
        person.key("first", "a")
        person.key("tie", "=")
        person.tool.get_by_text("All 10 pairs are labelled: 3 A, 3 B, 3 tie, 1 skipped").wait_for()

    labels = read_labels(tmp_path / "labels.jsonl")
    assert [(each.prompt, each.first, each.second, each.label) for each in labels] == person.said
    assert {each.annotator for each in labels} == {"one"} and len({each.pair for each in labels}) == 10
    assert len((tmp_path / "labels.jsonl").read_text().splitlines()) == 12  # ten, one that was undone, and the undo
