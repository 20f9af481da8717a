"""One job of a batch run: execute a chapter's notebook, for one seed or for its page, and leave page, status, marker.

`python -m repro.batch.execute --plan PLAN --chapter NAME [--seed K]`; exit status 0 done or skipped, 1 failed.
What is covered: a kernel that does not start is tried again, one that dies fails the chapter, none outlives the job.
What is not: a cell that never ends is not stopped.
"""

import argparse
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from filelock import FileLock

from repro.batch import chapters, page
from repro.batch.chapters import Place
from repro.batch.page import Failure
from repro.core import paths, records
from repro.core.records import seeds_text

ATTEMPTS = 3


def environment(plan: dict[str, Any], seed: int | None) -> dict[str, str]:
    """What a kernel's environment holds beyond the user's own."""
    threads = os.environ.get("SLURM_CPUS_PER_TASK") or str(plan["threads"])
    home = str(Path(paths.__file__).resolve().parents[2])  # the package that runs is the package that is imported
    path = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
    found = {
        "REPRO_BATCH": "1",
        "REPRO_TIER": plan["tier"],
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": path,
    }
    return found | ({"REPRO_SEED_JOB": "1"} if seed is not None else {})


def _execute(notebook: Path, out: Path, parameters: dict[str, Any]) -> None:
    """Papermill over this interpreter's kernel; the outputs so far are in `out` whatever happens."""
    import papermill

    from repro.batch.kernel import START_SECONDS, ChapterKernel

    papermill.execute_notebook(
        str(notebook),
        str(out),
        parameters,
        kernel_name="python3",
        language="python",
        progress_bar=False,
        request_save_on_cell_execute=True,
        autosave_cell_every=0,
        start_timeout=START_SECONDS,
        cwd=str(notebook.parent),
        kernel_manager_class=ChapterKernel,
    )


def run_notebook(notebook: Path, out: Path, parameters: dict[str, Any]) -> Failure | None:
    """Execute a notebook into `out`; what stopped it, or None. A kernel that does not start is tried three times."""
    import nbformat
    from papermill.exceptions import PapermillExecutionError
    from zmq import ZMQError

    from repro.batch.kernel import kill_kernels

    for attempt in range(1, ATTEMPTS + 1):
        out.unlink(missing_ok=True)
        try:
            _execute(notebook, out, parameters)
            return None
        except PapermillExecutionError as error:
            return page.failure_in(nbformat.read(out, 4)) or Failure(error.ename, str(error.evalue))
        except (RuntimeError, OSError, ZMQError) as error:  # the kernel did not start, or died
            cell = page.running_cell(nbformat.read(out, 4)) if out.exists() else None
            if cell is not None:
                return Failure(
                    "KernelDied", f"the kernel died ({type(error).__name__}: {error}); most often memory ran out", cell
                )
            traceback.print_exc()
            if attempt == ATTEMPTS:
                return Failure(
                    "KernelDidNotStart", f"in {ATTEMPTS} attempts; the last: {type(error).__name__}: {error}"
                )
        finally:
            kill_kernels()
    return None


class Job:
    """One chapter for one seed, or for its page."""

    def __init__(self, plan: dict[str, Any], chapter: str, seed: int | None):
        self.plan, self.seed = plan, seed
        self.place = Place(chapter, plan["tier"])
        self.seeds = plan["seeds"] if seed is None else [seed]
        # read before the run: what changes meanwhile makes the marker stale
        self.digest = plan["digests"][chapter]["page" if seed is None else "seed"]

    @property
    def current(self) -> bool:
        """Whether another run did this while we waited for the lock."""
        found = chapters.read(self.place.done(self.seed))
        return found.get("digest") == self.digest and found.get("state") == "done"

    def status(self, state: str, **more: Any) -> None:
        """A page's job has its state on record; a seed's job has it while it runs and when it fails."""
        if self.seed is None or state != "done":
            about = {
                "run": self.plan["id"],
                "seeds": self.seeds,
                "commit": self.plan["commit"],
                "versions": page.versions(),
            }
            chapters.set_status(self.place, state, **about, **more)

    def finish(self, out: Path, failure: Failure | None, started: float, peak: float) -> int:
        """Page, status and marker, the marker last; the job's exit status."""
        seconds = round(time.time() - started, 1)
        state = "done" if failure is None else "skipped" if failure.skipped else "failed"
        if self.seed is None or state == "failed":
            self._page(out, failure, seconds, peak)
        error = None if failure is None else {"ename": failure.name, "evalue": failure.words, "cell": failure.cell}
        if self.seed is None or state == "failed":
            self.status(
                state, seconds=seconds, peak_mebibytes=round(peak), error=error, started=started, finished=time.time()
            )
        if state != "failed":
            chapters.write(self.place.done(self.seed), {"digest": self.digest, "state": state, "seconds": seconds})
        return int(state == "failed")

    def _page(self, out: Path, failure: Failure | None, seconds: float, peak: float) -> None:
        """Write the page; where a chapter did not finish, its records of an earlier run go, so that no verdict rests on them."""
        import nbformat

        ran = {} if failure and failure.skipped else {"duration": f"{seconds:.0f} s", "peak memory": f"{peak:,.0f} MiB"}
        facts = {
            "tier": self.plan["tier"],
            "seeds": seeds_text(self.seeds),
            "commit": self.plan["commit"],
            "": page.versions(),
            **ran,
        }
        read = nbformat.read(out if out.exists() else self.place.notebook, 4)
        text = page.compose(read, failure, facts)
        if not self.place.page.exists() or self.place.page.read_text() != text:
            chapters.write(self.place.page, text)
        if failure:
            records.forget(self.place.chapter, self.place.tier)

    def run(self) -> int:
        """Execute under the lock that keeps two runs off the same chapter."""
        from repro.batch.kernel import Watch

        watch = Watch(self.plan["run"])
        watch.start()
        self.place.folder.mkdir(parents=True, exist_ok=True)
        name = self.place.done(self.seed).name.removesuffix(".done.json")
        with FileLock(self.place.folder / f".{name}.lock"):
            if self.current:
                return 0
            started = time.time()
            self.status("running", started=started)
            os.environ.update(environment(self.plan, self.seed))
            out = self.place.folder / f".{name}.ipynb"
            parameters = {"tier": self.plan["tier"], "seeds": self.seeds, "overrides": {}}
            failure = run_notebook(self.place.notebook, out, parameters)
            watch.stopped.set()
            status = self.finish(out, failure, started, watch.peak)
            out.unlink(missing_ok=True)
            return status


def _terminated(_number: int, _frame: Any) -> None:
    """End by the way of every `finally`, which ends the kernel."""
    sys.exit(143)


def main(arguments: list[str] | None = None) -> int:
    """The job's command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--chapter", required=True)
    parser.add_argument("--seed", type=int)
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _terminated)
    # jsonschema, behind nbformat, compiles a grammar of web addresses when imported, for a second; notebooks need none
    sys.modules.setdefault("rfc3987_syntax", None)
    plan = chapters.read(given.plan)
    if not plan or not chapters.alive(plan["run"]):
        return 1  # the run that asked for this job is gone
    return Job(plan, given.chapter, given.seed).run()


if __name__ == "__main__":
    sys.exit(main())
