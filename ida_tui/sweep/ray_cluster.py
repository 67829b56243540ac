"""Ray cluster that trains the runs of a sweep: each run is a task that starts `ida-tui` on one of the nodes.

Ray only chooses the node, the processors and the GPU of a run. Everything else is as on one machine, because
the nodes share the working directory, with the run directories from which the table is computed. Every node
needs the same Python environment.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ida_tui.errors import ExitCode, IdaError, UsageError
from ida_tui.runs import owner
from ida_tui.runs.directory import RunDirectory
from ida_tui.sweep.directory import Sweep
from ida_tui.sweep.processes import SweepProcess, TrainingProcess, is_locked, process_arguments
from ida_tui.util.safe_files import open_appended
from ida_tui.util.text import one_line, quoted

PASSED_VARIABLES = (
    "IDA_TUI_CACHE_DIR", "IDA_TUI_PROFILES", "IDA_TUI_HUB_OFFLINE", "XDG_CONFIG_HOME",
    "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT",
)  # fmt: skip
"""Variables of this process that a run gets on its node. Keys are not among them: Ray does not encrypt."""

AUTO = "auto"
"""The address of the cluster that was started last on this machine, or of RAY_ADDRESS."""
CONNECT_S = 5.0
"""Seconds to wait for the head node."""
CANCEL_POLL_S = 0.5
LOST = -1
"""Exit status of a run whose node was lost; it continues after a resume."""
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+):[0-9]{1,5}")


@dataclass(slots=True)
class RayTask:
    """A run that was handed to the cluster."""

    sweep: Sweep
    number: int
    task: Any
    """Ray's reference to the exit status."""
    is_cancelled: bool = False
    returncode: int | None = None
    """The exit status of the run, once its task has ended; negative if Ray lost it with its node."""

    @property
    def is_adopted(self) -> bool:
        """Never: Ray ends the tasks of a process that has ended."""
        return False

    def has_ended(self, run: Path | None) -> bool:
        """Whether the task and the process that it has started have ended."""
        import ray

        ready, _ = ray.wait([self.task], timeout=0)
        if not ready or is_locked(self.sweep, self.number):
            return False
        if self.returncode is None:
            self.returncode = self._collect()
        return True

    def _collect(self) -> int:
        import ray

        try:
            return int(ray.get(self.task))
        except ray.exceptions.RayTaskError as error:
            if self.is_cancelled:
                return ExitCode.INTERRUPTED
            with (
                contextlib.suppress(OSError),
                open_appended(self.sweep.log_file(self.number)) as log,
            ):
                log.write(
                    f"error: its node could not start it: {one_line(str(error.cause))}\n".encode()
                )
            return ExitCode.FAILED
        except ray.exceptions.RayError:
            return ExitCode.INTERRUPTED if self.is_cancelled else LOST

    def stop(self, run: Path | None) -> bool:
        """Cancel the task, also if it still waits for a node; it passes the request to the run."""
        import ray

        ray.cancel(self.task)
        self.is_cancelled = True
        return True


@dataclass(frozen=True, slots=True)
class RayCluster:
    """The cluster to which this process is connected."""

    nodes: tuple[Mapping[str, float], ...]
    """The resources of every node, such as CPU, GPU and memory (bytes)."""

    def slots(self, jobs: int | None, uses_gpus: bool) -> int:
        """The number given by the person, else one run on each GPU, else one on each processor."""
        return jobs or int(self._total(self._resource(uses_gpus)))

    def has_room(self, sweep: Sweep, number: int, active: Mapping[int, TrainingProcess]) -> bool:
        """Whether there is a free slot; Ray waits for processors and memory."""
        return len(active) < self.slots(sweep.jobs, sweep.uses_gpus)

    def start(
        self,
        sweep: Sweep,
        number: int,
        run: Path | None,
        budget: float | None,
        active: Mapping[int, TrainingProcess],
    ) -> TrainingProcess:
        """Hand a run to the cluster."""
        import ray

        if (run is not None and owner.is_alive(RunDirectory(run))) or is_locked(sweep, number):
            return SweepProcess(sweep, number, None)
        sweep.failure_file(number).unlink(missing_ok=True)
        train = ray.remote(train_run).options(
            **self.options(sweep, number), max_retries=0, name=f"{sweep.sweep_id}-{number + 1:03}"
        )
        task = train.remote(
            list(process_arguments(sweep, number, run, budget)),
            str(Path.cwd()),
            str(sweep.log_file(number)),
            str(sweep.lock_file(number)),
            {name: os.environ[name] for name in PASSED_VARIABLES if name in os.environ},
        )
        return RayTask(sweep, number, task)

    def options(self, sweep: Sweep, number: int) -> dict[str, float]:
        """What Ray reserves for a run: an equal share of a node's processors, and a GPU or memory (bytes)."""
        resource = self._resource(sweep.uses_gpus)
        nodes = [node for node in self.nodes if node.get(resource)]
        runs_per_node = math.ceil(self.slots(sweep.jobs, sweep.uses_gpus) / len(nodes))
        smallest = min(node.get("CPU", 0.0) for node in nodes)
        options: dict[str, float] = {"num_cpus": max(1, int(smallest // runs_per_node))}
        if resource == "GPU":
            return options | {"num_gpus": 1}
        planned = sweep.combinations[number].planned
        memory = min(node.get("memory", 0.0) for node in nodes)
        return options if planned is None else options | {"memory": int(min(planned, memory))}

    def describe(self, process: TrainingProcess) -> str:
        """Nothing: Ray has not chosen a node yet."""
        return ""

    def summary(self, uses_gpus: bool) -> str:
        """The cluster in a few words."""
        gpus = int(self._total("GPU"))
        parts = [f"{len(self.nodes)} node{'s' if len(self.nodes) > 1 else ''}"]
        parts.append(f"{int(self._total('CPU'))} CPUs")
        parts.append(f"{gpus} GPUs, one for each run" if gpus and uses_gpus else f"{gpus} GPUs")
        return f"Ray cluster: {', '.join(parts)}"

    def _resource(self, uses_gpus: bool) -> str:
        """What limits the number of runs."""
        return "GPU" if uses_gpus and self._total("GPU") >= 1 else "CPU"

    def _total(self, resource: str) -> float:
        return sum(node.get(resource, 0.0) for node in self.nodes)


def require_ray() -> None:
    """Check that Ray is installed.

    Raises:
        UsageError: Ray is not installed.
    """
    if find_spec("ray") is None:
        raise UsageError(
            "--ray needs ray, which is not installed",
            "uv sync --extra ray   or   pip install 'ida-tui[ray]'",
        )


@contextlib.contextmanager
def connect(address: str) -> Iterator[RayCluster]:
    """Be connected to a Ray cluster inside the block.

    Args:
        address: `host:port`, or `auto` for the cluster of this machine.

    Raises:
        UsageError: Ray is not installed, or this is not an address.
        IdaError: there is no cluster at this address, or it has no processors.
    """
    if address != AUTO and not _ADDRESS.fullmatch(address):
        raise UsageError(
            f"{quoted(address)} is not the address of a Ray cluster",
            "write --ray auto for the cluster of this machine, or --ray HOST:PORT",
            where="command line: --ray",
        )
    require_ray()
    import ray

    try:
        ray.init(address=_reachable(address), log_to_driver=False, logging_level="ERROR")
    except (RuntimeError, ValueError, OSError) as error:
        reason = one_line(str(error).strip().partition("\n")[0]) or type(error).__name__
        raise IdaError(
            f"could not connect to a Ray cluster at {quoted(address)}: {reason}",
            "start one with: ray start --head   or give the address of its head node",
        ) from None
    try:
        nodes = tuple(node["Resources"] for node in ray.nodes() if node["Alive"])
        cluster = RayCluster(tuple(node for node in nodes if node.get("CPU", 0) >= 1))
        if not cluster.nodes:
            raise IdaError(
                f"the Ray cluster at {quoted(address)} has no CPUs for runs",
                "add a node with: ray start --address HOST:PORT",
            )
        yield cluster
    finally:
        ray.shutdown()


def _reachable(address: str) -> str:
    """The address of a head node that accepts connections; Ray waits minutes for one that does not.

    Raises:
        OSError: it accepts no connections.
    """
    if address == AUTO:
        address = os.environ.get("RAY_ADDRESS", "")
        if not address:
            folder = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir()))
            with contextlib.suppress(OSError):
                address = (folder / "ray" / "ray_current_cluster").read_text().strip()
    if not _ADDRESS.fullmatch(address):
        return AUTO
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    return address


def train_run(
    arguments: Sequence[str],
    folder: str,
    log_file: str,
    lock_file: str,
    variables: Mapping[str, str],
) -> int:
    """Train a run on the node on which this function is called; its exit status.

    Args:
        arguments: the arguments of `ida-tui`.
        folder: the working directory of the sweep.
        log_file: file for the output of the run.
        lock_file: file that is locked while the run is trained.
        variables: variables of the sweep's process.

    Raises:
        OSError: the working directory is not on this node, or another process trains the run.
    """
    with open_appended(Path(lock_file)) as lock, open_appended(Path(log_file)) as log:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            pass  # the file system has no locks: rely on owner.json in the run directory
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ida_tui", *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[lock.fileno()],
            env=os.environ | dict(variables),
        )
        # Ray cancels a task by this signal, which a node that a script has started may ignore.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        while True:
            try:
                # Ray's interruption is only heard between two waits.
                return process.wait(CANCEL_POLL_S)
            except subprocess.TimeoutExpired:
                continue
            except KeyboardInterrupt:
                process.send_signal(signal.SIGTERM)
