"""The machine of `benchmarks.chaos`: launchers and their workers, what each is doing, and ways to stop them.

What a worker was doing when it was killed is looked at while it is stopped (SIGSTOP), so it cannot change in
between. What it had done is in a raw log that workers write beside their own: a line for each row and for
each outcome, unbuffered, never cut back. A `sitecustomize` on the workers' path adds it; nothing of the
project knows of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from sweeps.sweep import Sweep

ROOT = Path(__file__).resolve().parent.parent

LAUNCH = """
import json, sys
from launch.local import run_sweep
from scaling.config import Placement
from sweeps.sweep import read_sweep
placement = Placement(device="cpu", checkpoint_seconds=1e9, keep_every=int(sys.argv[3]))
outcome = run_sweep(read_sweep(sys.argv[1]), sys.argv[2], workers=1, placement=placement)
print(json.dumps(outcome.to_json()), flush=True)
sys.exit(outcome.exit_code)
"""

SPY = """
import os, sys
if "launch.worker" in getattr(sys, "orig_argv", ()):
    from pathlib import Path
    from scaling.runs import MetricsLog, RunFolder
    raw = os.open(os.environ["CHAOS_RAW"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    append, finish = MetricsLog.append, RunFolder.finish
    def spy_append(self, row):
        append(self, row)
        run = Path(self._file.name).parent.name
        os.write(raw, f"{os.getpid()} {run} {row['step']}\\n".encode())
    def spy_finish(self, status, summary):
        finish(self, status, summary)
        os.write(raw, f"{os.getpid()} {self.run_id} {status}\\n".encode())
    MetricsLog.append, RunFolder.finish = spy_append, spy_finish
"""


@dataclass(frozen=True)
class Doing:
    """What a worker does: `phase` is start, training step, checkpoint write, end, or none with no run."""

    phase: str
    run: str = ""
    step: int = 0  # the last that it has logged, of this attempt


@dataclass
class Machine:
    """One sweep in one folder, launched any number of times; `scratch` is on another disk than `root`."""

    sweep: Sweep
    root: Path
    scratch: Path
    every: int  # steps between two checkpoints
    launchers: list[subprocess.Popen[str]] = field(default_factory=list)
    launched: int = 0
    exits: list[int] = field(default_factory=list)
    struck: set[int] = field(default_factory=set)  # those that were killed, or told to end
    _seen: dict[int, psutil.Process] = field(default_factory=dict)  # workers, their launchers dead or not
    _looked: float = 0.0
    _logged: dict[tuple[int, str], list[int]] = field(
        default_factory=dict
    )  # process and run: rows, last step
    _read: int = 0  # bytes of the raw log

    def __post_init__(self) -> None:
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.raw = self.scratch / "raw.log"
        self.raw.touch()
        (self.scratch / "spy").mkdir(exist_ok=True)
        (self.scratch / "spy" / "sitecustomize.py").write_text(SPY)
        self.file = self.scratch / "sweep.json"
        self.sweep.write(self.file)
        self.folder = self.root / self.sweep.name

    def launch(self) -> None:
        said = (self.scratch / "launchers.log").open("a")
        environment = {name: value for name, value in os.environ.items() if name != "NPROC"}
        environment |= {
            "PYTHONPATH": f"{self.scratch / 'spy'}:{ROOT}",
            "CHAOS_RAW": str(self.raw),
            "JAX_PLATFORMS": "cpu",
        }
        command = [sys.executable, "-c", LAUNCH, str(self.file), str(self.root), str(self.every)]
        self.launchers.append(
            subprocess.Popen(
                command, stdout=said, stderr=said, text=True, env=environment, start_new_session=True
            )
        )
        said.close()
        self.launched += 1

    def keep_launched(self, count: int) -> None:
        """`count` launchers at once, while there is anything left to do."""
        for launcher in list(self.launchers):
            if launcher.poll() is not None:
                self.exits.append(launcher.returncode)
                self.launchers.remove(launcher)
        while len(self.launchers) < count and not self.all_finished():
            self.launch()

    def all_finished(self) -> bool:
        return all((self.folder / run.run_id / "DONE").exists() for run in self.sweep.runs)

    def workers(self) -> list[psutil.Process]:
        """Every worker that lives and was not struck yet, those whose launcher is gone among them."""
        if time.monotonic() - self._looked > 0.05:  # psutil walks over every process of the machine
            self._looked = time.monotonic()
            for launcher in self.launchers:
                with contextlib.suppress(psutil.Error):
                    self._seen |= {child.pid: child for child in psutil.Process(launcher.pid).children()}
        self._seen = {pid: one for pid, one in self._seen.items() if _alive(one) and pid not in self.struck}
        return list(self._seen.values())

    def doing(self, worker: psutil.Process) -> Doing:
        """Exact only while the worker is stopped."""
        run = self.run_of(worker)
        if run is None:
            return Doing("none")
        step = self.logged(worker, run)[1]
        if self.writing(run):
            return Doing("checkpoint write", run, step)
        horizon = {config.run_id: config.steps for config in self.sweep.runs}[run]
        return Doing("start" if not step else "training step" if step < horizon else "end", run, step)

    def writing(self, run: str) -> bool:
        """Whether a checkpoint of the run is begun and not whole: Orbax renames it when it is."""
        try:
            return any("tmp" in name for name in os.listdir(self.folder / run / "checkpoints"))
        except FileNotFoundError:
            return False

    def logged(self, worker: psutil.Process, run: str) -> tuple[int, int]:
        """How many steps of the run this process has logged, and the last of them."""
        with self.raw.open() as file:
            file.seek(self._read)
            new = file.read()
        whole = new[: new.rfind("\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            pid, of, what = line.split()
            if what.isdigit():
                known = self._logged.setdefault((int(pid), of), [0, 0])
                known[:] = known[0] + 1, int(what)
        count, last = self._logged.get((worker.pid, run), (0, 0))
        return count, last

    def run_of(self, worker: psutil.Process) -> str | None:
        """The run whose lock the worker has open."""
        with contextlib.suppress(OSError):
            for handle in (Path("/proc") / str(worker.pid) / "fd").iterdir():
                with contextlib.suppress(OSError):
                    path = Path(os.readlink(handle))
                    if path.name == ".lock" and path.parent.parent == self.folder:
                        return path.parent.name
        return None

    def rows(self) -> Iterator[tuple[int, str, str]]:
        """The raw log: process, run, and the step that it logged or the status that it wrote."""
        for line in self.raw.read_text().splitlines():
            pid, run, what = line.split()
            yield int(pid), run, what

    def close(self) -> None:
        for process in [*self.launchers, *self.workers()]:  # those that were struck end by themselves
            with contextlib.suppress(OSError):
                os.kill(process.pid, signal.SIGKILL)
        for launcher in self.launchers:
            launcher.wait()


@contextlib.contextmanager
def stopped(processes: list[psutil.Process]) -> Iterator[None]:
    """Nothing of them moves within; those not killed meanwhile go on."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.suspend()
    end = time.monotonic() + 5
    while time.monotonic() < end and not all(_is_stopped(process) for process in processes):
        time.sleep(0.001)
    try:
        yield
    finally:
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.resume()


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Callable[[], Callable[[], None]] | None]:
    """Mount a file system of `size` on `folder`; yields what fills it up and returns what frees it again.

    None where this user may not mount: the caller then limits the size of a worker's files instead.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        yield None
        return

    def fill() -> Callable[[], None]:
        balloon = folder / "balloon"
        with balloon.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"\0" * 65536):
                pass
        return lambda: balloon.unlink()

    try:
        yield fill
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _is_stopped(process: psutil.Process) -> bool:
    try:
        return process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return True


def outcomes(machine: Machine) -> list[dict[str, object]]:
    """What launchers said at their end; those that were killed said nothing."""
    lines = (machine.scratch / "launchers.log").read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith('{"done"')]
