"""The kernel of one job: this interpreter's own, reached over sockets in a private folder, gone when the job is gone.

Ports are a race between kernels that start together, so the sockets are files; where the path is too long for one,
ports are used and kernels start one after the other.
"""

import asyncio
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, ClassVar

from filelock import FileLock
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from traitlets import default

from repro.batch.chapters import alive, tree_mebibytes

SOCKET_PATH_LIMIT = 100  # bytes: a socket's path holds 104 on macOS, 108 on Linux
START_SECONDS = 60


class ChapterKernel(AsyncKernelManager):
    """A kernel of the running interpreter, whatever kernels are registered on the machine under `python3`."""

    started: ClassVar[list[int]] = []
    home: ClassVar[Path | None] = None

    @property
    def kernel_spec(self) -> KernelSpec:
        """How to start it."""
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name="Python 3", language="python")

    @default("connection_file")
    def _connection_file_default(self) -> str:
        folder = Path(tempfile.mkdtemp(prefix="repro-"))
        type(self).home = folder
        return str(folder / "k.json")

    @default("transport")
    def _transport_default(self) -> str:
        return "ipc" if len(os.fsencode(self.connection_file)) + len("-ipc-5") <= SOCKET_PATH_LIMIT else "tcp"

    async def start_kernel(self, **options: Any) -> None:
        """Start it; over ports, hold the machine-wide lock until the kernel has bound them."""
        if self.transport == "ipc":
            await super().start_kernel(**options)
            self._remember()
            return
        with FileLock(Path(tempfile.gettempdir()) / f"repro-ports-{os.getuid()}.lock"):
            await super().start_kernel(**options)
            self._remember()
            await self._bound()

    def _remember(self) -> None:
        self.started.append(self.provisioner.process.pid)

    async def _bound(self) -> None:
        """Wait until the kernel listens on its last port, or is gone."""
        for _ in range(START_SECONDS * 10):
            with socket.socket() as probe:
                if probe.connect_ex((self.ip, self.hb_port)) == 0 or not await self.is_alive():
                    return
            await asyncio.sleep(0.1)


def kill_kernels() -> None:
    """End every kernel this process started, with its children, and clear their sockets away."""
    for pid in ChapterKernel.started:
        try:
            if os.getpgid(pid) != os.getpgid(0):  # a kernel leads its own group
                os.killpg(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue
    ChapterKernel.started.clear()
    if ChapterKernel.home:
        shutil.rmtree(ChapterKernel.home, ignore_errors=True)


class Watch(threading.Thread):
    """Looks at the run that owns this job, and at the kernel's memory, until stopped.

    When the run is gone, killed even, the kernel and this job end at once; whatever the job had finished stays.
    """

    def __init__(self, owner: dict[str, Any], seconds: float = 0.5):
        super().__init__(daemon=True)
        self.owner, self.seconds, self.peak = owner, seconds, 0.0
        self.stopped = threading.Event()

    def run(self) -> None:
        """Look until stopped."""
        while not self.stopped.wait(self.seconds):
            if not alive(self.owner):
                kill_kernels()
                os._exit(1)
            self.peak = max([self.peak, *(tree_mebibytes(pid) for pid in list(ChapterKernel.started))])
