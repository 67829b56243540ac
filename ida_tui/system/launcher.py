"""Launcher that started this process: Slurm, MPI, `accelerate launch` or torchrun, read from its variables.

A launcher that starts a program several times without saying which process belongs to which run would start
as many separate runs. torchrun starts its processes again after one has failed; they continue the same run.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ida_tui.errors import UsageError

UNNAMED_JOB = "none"
"""torchrun's job id without `--rdzv_id`."""
TORCHRUN_PER_NODE = (
    "srun --ntasks-per-node=1 torchrun --nnodes $SLURM_NNODES --nproc_per_node GPUS"
    " --rdzv_backend c10d --rdzv_id $SLURM_JOB_ID --rdzv_endpoint HOST:29500 -m ida_tui run PROFILE"
)
MPI_COUNTS = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
"""Variables of MPI's launchers with their number of processes."""


def require_one_run() -> None:
    """Check that the launcher does not start separate runs where one was meant.

    Raises:
        UsageError: it started several processes, and none of them knows of the others.
    """
    step_tasks = _count("SLURM_STEP_NUM_TASKS")
    if "WORLD_SIZE" in os.environ:
        if step_tasks > 1 and _count("GROUP_WORLD_SIZE") == 1:
            raise UsageError(
                f"srun started {step_tasks} torchruns that do not know of each other: {step_tasks} separate"
                " runs would start",
                f"give torchrun the nodes and where they meet (docs/distributed.md):\n{TORCHRUN_PER_NODE}",
            )
        return
    tasks = step_tasks or _count("SLURM_NTASKS")
    if tasks > 1 and "SLURM_PROCID" in os.environ:
        raise UsageError(
            f"srun starts {tasks} processes, but not torchrun (WORLD_SIZE is not set): {tasks} separate runs"
            " would start",
            f"let srun start one torchrun on each node (docs/distributed.md):\n{TORCHRUN_PER_NODE}\n"
            "or, for a run of one process: srun --ntasks=1 ida-tui --run PROFILE",
        )
    for name in MPI_COUNTS:
        if _count(name) > 1:
            raise UsageError(
                f"{name}={_count(name)}, but WORLD_SIZE is not set: mpirun would start {_count(name)}"
                " separate runs",
                "start the processes with torchrun: torchrun --nproc_per_node N -m ida_tui run PROFILE",
            )
    if _is_from_accelerate() and not _is_this_machine(os.environ.get("MASTER_ADDR", "")):
        raise UsageError(
            "accelerate launch has several machines, but started one process on this one and did not set"
            " WORLD_SIZE: separate runs would start",
            "add --multi_gpu to accelerate launch, or start torchrun on each machine (docs/distributed.md)",
        )


def single_process_note() -> str:
    """What to say if `accelerate launch` was asked for several processes and has started one; else empty."""
    if "WORLD_SIZE" in os.environ or not _is_from_accelerate():
        return ""
    return (
        "accelerate launch has started one process (WORLD_SIZE is not set): without --multi_gpu it starts"
        " several only where it finds several GPUs. The run trains the same steps in this one process"
    )


def _is_from_accelerate() -> bool:
    """Whether `accelerate launch` was asked for several processes; only then does it set MASTER_PORT."""
    return "ACCELERATE_DYNAMO_BACKEND" in os.environ and "MASTER_PORT" in os.environ


def _is_this_machine(address: str) -> bool:
    return address.startswith(("127.", "localhost", "::1"))


def _count(name: str) -> int:
    """A number in the environment; 0 if it is missing or not a number."""
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else 0


@dataclass(frozen=True, slots=True)
class ElasticJob:
    """A torchrun, which may start its processes again."""

    job_id: str
    """The value of `--rdzv_id`; a random one with `--standalone`."""
    agent: str
    """Host, process id and start of the torchrun that started this process."""
    restarts: int
    """How often it has started its processes again."""

    def has_started(self, recorded: Any) -> bool:
        """Whether an earlier process of this torchrun has started the run that recorded this job."""
        if not self.restarts or not isinstance(recorded, Mapping):
            return False
        if self.job_id != UNNAMED_JOB:
            return recorded.get("job_id") == self.job_id
        return recorded.get("agent") == self.agent


def elastic_job() -> ElasticJob | None:
    """The torchrun that started this process; None if it was started otherwise."""
    job_id = os.environ.get("TORCHELASTIC_RUN_ID")
    if job_id is None:
        return None
    import psutil

    parent = psutil.Process(os.getppid())
    agent = f"{socket.gethostname()} {parent.pid} {parent.create_time():.2f}"
    return ElasticJob(job_id, agent, _count("TORCHELASTIC_RESTART_COUNT"))


def launcher_record() -> dict[str, Any]:
    """What a run's manifest keeps of its launcher; empty without one."""
    job = elastic_job()
    return {} if job is None else {"torchrun": asdict(job)}
