"""Outcomes of a training run: for each way it can end, the checkpoint, message and exit code."""

from __future__ import annotations

import time
import traceback

from ida_tui.engine.distributed.process_group import PeerLostError
from ida_tui.engine.run.context import RunContext
from ida_tui.engine.run.outcome_value import (
    NOTHING_LEARNED,
    Outcome,
    nothing_learned_reason,
    smaller_batch_overrides,
    stopped_by_watchdog,
)
from ida_tui.errors import ExitCode, IdaError
from ida_tui.events import types as ev
from ida_tui.planning import memory


def completed(run: RunContext) -> Outcome:
    """The run finished every step; the message says so if the weights did not change."""
    if run.state.steps and run.state.weight_delta == 0:
        return Outcome(
            "done", ExitCode.DONE, NOTHING_LEARNED, nothing_learned_reason(run.state.steps)
        )
    return Outcome("done", ExitCode.DONE, "Training complete")


def interrupted(run: RunContext) -> Outcome:
    """The user stopped the run, or handed it over to another process."""
    saved = run.save_checkpoint()
    checkpoint = run.state.checkpoint
    verb = "Handed over" if run.control.hand_over_requested else "Stopped"
    message = f"{verb} after step {run.last_step} of {run.config.planned_steps()}"
    hint = (
        "No step finished; `ida-tui resume` starts over."
        if run.trainer
        else "Training had not started."
    )
    # Without a trainer the run was paused with its memory freed; its checkpoint was saved before.
    if checkpoint and (saved or run.trainer is None):
        hint = f"checkpoint: {checkpoint.path}\nresume with: ida-tui resume {run.directory.path}"
    return Outcome("interrupted", ExitCode.INTERRUPTED, message, hint)


def failed(run: RunContext, error: IdaError) -> Outcome:
    """The run failed with an error that has an explanation, such as a judge that is unavailable."""
    run.save_checkpoint()
    if error.code is ExitCode.JUDGE_UNAVAILABLE:
        hint = f"{error.hint}\nthen: ida-tui resume {run.directory.path}"
        return Outcome("judge_unavailable", error.code, error.title, hint)
    if error.code is ExitCode.STOPPED_BY_ALERT:
        hint = (
            f"{error.hint}\nresume anyway: ida-tui resume {run.directory.path} alerts.on_alert=tell"
        )
        return Outcome("stopped_by_alert", error.code, error.title, hint)
    return Outcome("failed", error.code, error.title, error.hint)


def peer_lost(run: RunContext, error: PeerLostError) -> Outcome:
    """A peer process was lost; any number of processes can resume from the last finished step."""
    saved = run.save_checkpoint()
    checkpoint = run.state.checkpoint
    hint = "No step finished; `ida-tui resume` starts over."
    if saved and checkpoint:
        hint = (
            f"checkpoint: {checkpoint.path}\nresume with: ida-tui resume {run.directory.path}\n"
            f"or with as many processes: torchrun --nproc_per_node {run.process_group.process.local_world_size}"
            f" -m ida_tui resume {run.directory.path}"
        )
    if error.hint:
        hint = f"{error.hint}\n{hint}"
    return Outcome("failed", ExitCode.FAILED, error.title, hint)


def crashed(run: RunContext, error: Exception) -> Outcome:
    """The run failed with an unexpected error; call this inside the except block."""
    run.save_checkpoint()
    if stopped_by_watchdog(error):
        smaller = smaller_batch_overrides(run.config)
        return Outcome(
            "failed",
            ExitCode.DEVICE_UNUSABLE,
            "macOS ended a GPU command because it kept the screen waiting",
            f"resume with smaller batches: ida-tui resume {run.directory.path} {smaller}"
            if smaller
            else "Lower training.max_completion_length: shorter completions make shorter commands",
        )
    return Outcome(
        "failed",
        ExitCode.FAILED,
        f"unexpected {type(error).__name__}: {' '.join(str(error).split())[:300]}",
        f"this is a bug in ida-tui; see {run.directory.logs / 'crash.txt'} for details",
        crash=traceback.format_exc(),
    )


def out_of_memory(run: RunContext, reason: str) -> Outcome:
    """Memory ran out, or was about to; call this where no frame holds the step's tensors any more."""
    run.free_step_memory()
    saved = run.save_checkpoint()
    hint = memory.reduction_hint(run.config, run.preflight.device, run.preflight.limit)
    if saved and run.state.checkpoint:
        reduced = memory.reduced_overrides(run.config, run.preflight.device)
        hint = (
            f"resume with less memory: ida-tui resume {run.directory.path} {reduced}\n"
            f"or start over with {hint}"
        )
    return Outcome("out_of_memory", ExitCode.OUT_OF_MEMORY, reason, hint)


def run_ended_event(run: RunContext, outcome: Outcome) -> ev.RunEnded:
    """The final event of a run, with its totals."""
    state = run.state
    # Seconds of the earlier processes of a resumed run, if they recorded their end.
    previous = run.resume_point.state.ended if run.resume_point else None
    seconds = time.monotonic() - run.started_at + (previous.seconds if previous else 0.0)
    return ev.RunEnded(
        status=outcome.status,
        exit_code=int(outcome.code),
        steps_done=run.last_step,
        r_ida_first=state.r_ida_first,
        r_ida_last=state.r_ida_last,
        weight_delta=state.weight_delta,
        seconds=round(seconds, 3),
        cost=state.judge.cost,
        message=outcome.message,
        hint=outcome.hint,
    )
