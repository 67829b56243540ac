"""Worker process of a distributed run: every rank except rank 0.

A worker computes its part of every step. It writes and prints nothing. Rank 0 sends it the run (`RunSpec`),
calls the judge, saves, evaluates and pauses, while the workers wait in their next collective. When rank 0
ends the run, it publishes its exit code and the workers exit without a message.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ida_tui.config.schema import Config, DeviceName
from ida_tui.engine import libraries
from ida_tui.engine.distributed.environment import ProcessInfo, take_over_fsdp
from ida_tui.engine.distributed.process_group import (
    PeerLostError,
    ProcessGroup,
    join_process_group,
    published_exit_code,
    wait_for_announcement,
)
from ida_tui.engine.distributed.shared_folder import require_shared_folder
from ida_tui.engine.exceptions import RunInterrupted
from ida_tui.engine.run.context import RunContext
from ida_tui.engine.run.control import RunControl
from ida_tui.errors import IdaError

EXIT_CODE_TIMEOUT_S = 60.0
"""How long to wait for rank 0's exit code. Rank 0 saves a checkpoint first."""


@dataclass(frozen=True, slots=True)
class RunSpec:
    """Description of a run, which rank 0 sends to the worker processes before the model is loaded."""

    config: Config
    """The resolved profile, with automatic settings filled in from the memory plan."""
    device: DeviceName
    threads: int
    """Number of threads that torch computes with in each process."""
    checkpoints: Path
    """Folder of the checkpoints. Only rank 0 writes to it."""
    checkpoint: Path | None
    """The checkpoint to resume from; None for a new run."""
    has_steps_left: bool
    """False if all steps are already done and only the final weights are missing."""

    @classmethod
    def from_context(cls, run: RunContext) -> Self:
        """Create the specification of a run."""
        checkpoint = run.resume_point.checkpoint if run.resume_point else None
        all_steps_done = (
            run.resume_point is not None and run.resume_point.step >= run.config.planned_steps()
        )
        return cls(
            config=run.config,
            device=run.preflight.device,
            threads=run.preflight.threads,
            checkpoints=run.directory.checkpoints,
            checkpoint=checkpoint,
            has_steps_left=not (checkpoint and all_steps_done),
        )


class Worker:
    """A rank other than rank 0.

    Args:
        process: rank and world size of this process.
        control: receives stop requests, which are forwarded to all ranks.
    """

    def __init__(self, process: ProcessInfo, control: RunControl) -> None:
        self._process = process
        self._control = control
        self.failure = ""
        """Error message if this process failed; empty if rank 0 ended the run or another rank exited."""

    def run(self) -> int:
        """Work on the run until it ends, and return the exit status of this process.

        Raises:
            IdaError: the processes could not connect.
        """
        libraries.set_library_defaults(None)
        take_over_fsdp()
        try:
            announcement = wait_for_announcement(self._process)
            if not announcement:  # rank 0 ran another command, or printed why it starts no run
                return self._status_of_machine(published_exit_code(self._process))
            if announcement == "offline":
                os.environ.setdefault("HF_HUB_OFFLINE", "1")
            # This import takes seconds. Do it while rank 0 runs its checks.
            from ida_tui.engine.run import build  # noqa: F401

            with join_process_group(self._process, _backend_device()) as process_group:
                return self._run_in_group(process_group)
        except PeerLostError:  # rank 0 printed why the run does not start
            return self._status_of_machine(published_exit_code(self._process))

    def _run_in_group(self, process_group: ProcessGroup) -> int:
        try:
            self._train(process_group)
        except (RunInterrupted, PeerLostError):
            return self._status_of_machine(_wait_for_exit_code(process_group))
        except Exception as error:
            if process_group.peer_lost_error(error):
                return self._status_of_machine(_wait_for_exit_code(process_group))
            self.failure = (
                error.title if isinstance(error, IdaError) else f"{type(error).__name__}: {error}"
            )
            process_group.report_failure(self.failure)
            return 1
        return 0

    def _status_of_machine(self, code: int) -> int:
        """The exit status for a run that rank 0 has ended with this code.

        A torchrun whose processes all succeed waits five minutes for those of other machines, so a failure
        must be one on every machine. On rank 0's machine its own status is enough, and a second failure
        would have torchrun signal rank 0 while it prints the end.
        """
        with_rank_zero = self._process.rank == self._process.local_rank
        return 0 if with_rank_zero else code

    def _train(self, process_group: ProcessGroup) -> None:
        require_shared_folder(process_group)
        spec: RunSpec = process_group.broadcast(None)
        libraries.set_library_defaults(spec.config.model.folder())
        from ida_tui.config import precision
        from ida_tui.engine.device import device
        from ida_tui.engine.device.threads import choose_threads
        from ida_tui.engine.model import load
        from ida_tui.engine.run import build
        from ida_tui.engine.run.preflight import PreflightResult
        from ida_tui.engine.trainer.recorder import StepRecorder
        from ida_tui.engine.trainer.reward import DistributedRewardCollector

        config = spec.config
        device.select_cuda_device(spec.device, self._process.local_rank)
        threads = choose_threads(
            with_screen=False,
            device=spec.device,
            processes=self._process.local_world_size,
            recorded=spec.threads,
        )
        threads.apply()
        preflight = PreflightResult(
            config=config,
            device=spec.device,
            recipe=precision.resolve_precision(config, spec.device),
            tokenizer=load.load_tokenizer(config.model),
            limit=0.0,
            threads=threads.threads,
        )
        with libraries.capture_library_output(lambda notice: None):
            trainer = build.build_trainer(
                config,
                preflight,
                spec.checkpoints,
                process_group=process_group,
                recorder=StepRecorder(
                    lambda event: None,
                    self._control.stop,
                    config.planned_steps(),
                    tuple(config.rubric.axes),
                    any_rank=process_group.any_rank,
                ),
                reward_source=DistributedRewardCollector(process_group, None),
                on_step_end=lambda: None,
                on_train_begin=process_group.follow,
                between_steps=process_group.follow,
                checkpoint_metadata=dict,
            )
            try:
                process_group.follow()
                process_group.barrier()
                checkpoint = str(spec.checkpoint) if spec.checkpoint else None
                if spec.has_steps_left:
                    trainer.train(resume_from_checkpoint=checkpoint)
                elif spec.checkpoint and process_group.shares_model:
                    trainer.load_checkpoint(spec.checkpoint)
            except RunInterrupted:
                process_group.follow()  # rank 0 saves a checkpoint
                raise
            process_group.follow()


def _wait_for_exit_code(process_group: ProcessGroup) -> int:
    """Rank 0's exit code, once it has ended the run; 1 if it has exited without one.

    If a worker exited first, the launcher would kill the other ranks.
    """
    deadline = time.monotonic() + EXIT_CODE_TIMEOUT_S
    while time.monotonic() < deadline:
        code = process_group.exit_code()
        if code is not None:
            return code
        if process_group.has_exited(0):
            break
        time.sleep(0.1)
    return 1


def _backend_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
