"""Every way in which a run ends: what is saved, what is said, and the exit code."""

from __future__ import annotations

import time
import traceback

from ida_tui.engine.distributed.process_group import RankLost
from ida_tui.engine.run.context import UnderWay
from ida_tui.engine.run.outcome_value import (
    NOTHING_LEARNED,
    Outcome,
    smaller_batch,
    stopped_by_watchdog,
    why_nothing,
)
from ida_tui.errors import ExitCode, IdaError
from ida_tui.events import types as ev
from ida_tui.planning import memory


def complete(run: UnderWay) -> Outcome:
    """Every step was made; whether anything came of it is another matter."""
    if run.state.steps and run.state.weight_delta == 0:
        return Outcome("done", ExitCode.DONE, NOTHING_LEARNED, why_nothing(run.state.steps))
    return Outcome("done", ExitCode.DONE, "Training complete")


def interrupted(run: UnderWay) -> Outcome:
    """Somebody asked to stop, or to hand the run over."""
    saved = run.checkpoint()
    where = run.state.checkpoint
    how = "Handed over" if run.control.handing_over else "Stopped"
    message = f"{how} after step {run.last_step} of {run.config.planned_steps()}"
    kept = (
        "no step was finished: ida-tui resume begins anew"
        if run.trainer
        else "training had not begun"
    )
    # Without a trainer it was paused, with everything given back: its checkpoint came first.
    if where and (saved or run.trainer is None):
        kept = f"checkpoint: {where.path}\ngo on with: ida-tui resume {run.directory.path}"
    return Outcome("interrupted", ExitCode.INTERRUPTED, message, kept)


def refused(run: UnderWay, error: IdaError) -> Outcome:
    """Something that has an explanation, such as a judge that is gone."""
    run.checkpoint()
    if error.code is ExitCode.JUDGE_UNAVAILABLE:
        hint = f"{error.hint}\nthen: ida-tui resume {run.directory.path}"
        return Outcome("judge_unavailable", error.code, error.title, hint)
    if error.code is ExitCode.STOPPED_BY_ALERT:
        hint = f"{error.hint}\nto go on as it is: ida-tui resume {run.directory.path} alerts.on_alert=tell"
        return Outcome("stopped_by_alert", error.code, error.title, hint)
    return Outcome("failed", error.code, error.title, error.hint)


def rank_lost(run: UnderWay, error: RankLost) -> Outcome:
    """Another process is gone; the last finished step is kept, and any number of them can go on with it."""
    saved = run.checkpoint()
    where = run.state.checkpoint
    hint = "no step was finished: ida-tui resume begins anew"
    if saved and where:
        hint = (
            f"checkpoint: {where.path}\ngo on with: ida-tui resume {run.directory.path}\n"
            f"or with as many: torchrun --nproc_per_node {run.ranks.place.local_world}"
            f" -m ida_tui resume {run.directory.path}"
        )
    if error.hint:
        hint = f"{error.hint}\n{hint}"
    return Outcome("failed", ExitCode.FAILED, error.title, hint)


def unexpected(run: UnderWay, error: Exception) -> Outcome:
    """Something that has none; call it where the error is handled."""
    run.checkpoint()
    if stopped_by_watchdog(error):
        smaller = smaller_batch(run.config)
        return Outcome(
            "failed",
            ExitCode.DEVICE_UNUSABLE,
            "macOS ended a command of the GPU because the screen had to wait for it",
            f"in smaller pieces: ida-tui resume {run.directory.path} {smaller}"
            if smaller
            else "shorter answers make shorter commands: lower training.max_completion_length",
        )
    return Outcome(
        "failed",
        ExitCode.FAILED,
        f"unexpected {type(error).__name__}: {' '.join(str(error).split())[:300]}",
        f"this is a defect of ida-tui; {run.directory.logs / 'crash.txt'} has the details",
        crash=traceback.format_exc(),
    )


def out_of_memory(run: UnderWay, why: str) -> Outcome:
    """Memory ran out, or was about to; call it where no frame holds the step's tensors any more."""
    run.make_room()
    saved = run.checkpoint()
    change = memory.advice(run.config, run.ready.device, run.ready.limit)
    if saved and run.state.checkpoint:
        smaller = memory.smaller(run.config, run.ready.device)
        change = (
            f"go on, smaller: ida-tui resume {run.directory.path} {smaller}\n"
            f"or start anew with {change}"
        )
    return Outcome("out_of_memory", ExitCode.OUT_OF_MEMORY, why, change)


def last_event(run: UnderWay, outcome: Outcome) -> ev.RunEnded:
    """The run in figures."""
    state = run.state
    # What earlier parts of a resumed run took, where they ended by themselves.
    before = run.resume.state.ended if run.resume else None
    seconds = time.monotonic() - run.started + (before.seconds if before else 0.0)
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
