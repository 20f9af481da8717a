"""Every chapter runs from top to bottom at the smoke tier, as JupyterLab's Run All does; shared steps run once."""

import os
import subprocess
import sys

import pytest

from repro.core.paths import NOTEBOOKS, data_folder, models_folder

CHAPTERS = sorted(file.name for file in NOTEBOOKS.glob("*.ipynb"))
WITHOUT = "the public data or the encoder is not on this machine: `repro data fetch`, REPRO_MODELS"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.mark.skipif(data_folder() is None or models_folder() is None, reason=WITHOUT)
@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_chapter_runs(chapter, runs):
    command = [sys.executable, "-m", "pytest", "-q", "--nbval-lax", "--nbval-current-env", "-p", "no:cacheprovider"]
    environment = {**os.environ, "REPRO_RUNS": str(runs), "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [*command, str(NOTEBOOKS / chapter)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert list((runs / "records" / "smoke").glob(f"{chapter.removesuffix('.ipynb')}/*.jsonl")) or chapter.startswith(
        "99"
    )
