"""Outcomes of a training run: checkpoint, message and exit code for each way a run ends, and the report."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from ida_tui.config.precision import PrecisionRecipe
from ida_tui.config.schema import Config
from ida_tui.engine.distributed.process_group import PeerLostError
from ida_tui.engine.run.context import RunContext
from ida_tui.errors import ExitCode, IdaError
from ida_tui.events import types as ev
from ida_tui.events.judge_quality import run_quality
from ida_tui.judge.errors import FunctionsUnavailable
from ida_tui.planning import memory
from ida_tui.runs.log.disk_errors import disk_error_of
from ida_tui.util.paths import display_path

NOT_FINITE_PHRASE = "probability tensor contains"
"""Part of torch's message when it samples from numbers that are not finite."""
NOTHING_LEARNED = "Nothing was learned: the weights did not move"
WATCHDOG_PHRASE = "impacting interactivity"
"""Part of Metal's message when the system ended a command that kept the screen waiting for too long."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended."""

    status: ev.RunEndStatus
    code: ExitCode
    message: str
    hint: str = ""
    crash: str = ""
    """The traceback, if the error is a bug in this program."""


def completed_outcome(run: RunContext) -> Outcome:
    """The run finished every step; the message says so if the weights did not change."""
    if run.state.steps and not run.state.steps[-1].weights_moved:
        return Outcome(
            "done",
            ExitCode.DONE,
            NOTHING_LEARNED,
            nothing_learned_reason(run.config, run.state.steps),
        )
    return Outcome("done", ExitCode.DONE, "Training complete")


def interrupted_outcome(run: RunContext) -> Outcome:
    """The user stopped the run."""
    saved = run.save_checkpoint()
    checkpoint = run.state.checkpoint
    message = f"Stopped after step {run.last_step} of {run.config.planned_steps()}"
    hint = (
        "No step finished; `ida-tui resume` starts over."
        if run.trainer
        else "Training had not started."
    )
    # Without a trainer the run was paused with its memory freed; its checkpoint was saved before.
    if checkpoint and (saved or run.trainer is None):
        hint = f"checkpoint: {checkpoint.path}\nresume with: ida-tui resume {run.directory.path}"
    return Outcome("interrupted", ExitCode.INTERRUPTED, message, hint)


def failed_outcome(run: RunContext, error: IdaError) -> Outcome:
    """The run failed with an error that has an explanation, such as a judge that is unavailable."""
    run.save_checkpoint()
    if isinstance(error, FunctionsUnavailable):
        hint = f"{error.hint}\nthen: ida-tui resume {run.directory.path}"
        return Outcome("failed", error.code, error.title, hint)
    if error.code is ExitCode.JUDGE_UNAVAILABLE:
        hint = f"{error.hint}\nthen: ida-tui resume {run.directory.path}"
        return Outcome("judge_unavailable", error.code, error.title, hint)
    if error.code is ExitCode.STOPPED_BY_ALERT:
        hint = (
            f"{error.hint}\nresume anyway: ida-tui resume {run.directory.path} alerts.on_alert=tell"
        )
        return Outcome("stopped_by_alert", error.code, error.title, hint)
    return Outcome("failed", error.code, error.title, error.hint)


def peer_lost_outcome(run: RunContext, error: PeerLostError) -> Outcome:
    """A peer process was lost; any number of processes can resume from the last finished step.

    If a part of the trained weights was lost with it, they resume from the last checkpoint.
    """
    run.process_group.is_followed = False
    saved = run.save_checkpoint()
    checkpoint = run.state.checkpoint
    hint = "No step finished; `ida-tui resume` starts over."
    if run.trainer is not None and run.trainer.trains_shards:
        hint = "No checkpoint was saved; `ida-tui resume` starts over. To save them: training.save_steps"
        saved = True
    if saved and checkpoint:
        hint = (
            f"checkpoint: {checkpoint.path}\nresume with: ida-tui resume {run.directory.path}\n"
            "or with the same number of processes:"
            f" torchrun --nproc_per_node {run.process_group.process.local_world_size}"
            f" -m ida_tui resume {run.directory.path}"
        )
    if error.hint:
        hint = f"{error.hint}\n{hint}"
    return Outcome("failed", ExitCode.FAILED, error.title, hint)


def crashed_outcome(run: RunContext, error: Exception) -> Outcome:
    """The run failed with an unexpected error; call this inside the except block."""
    run.save_checkpoint()
    if stopped_by_watchdog(error):
        smaller = smaller_batch_overrides(run.config)
        return Outcome(
            "failed",
            ExitCode.DEVICE_UNUSABLE,
            "macOS ended a GPU command because it blocked the display for too long",
            f"resume with smaller batches: ida-tui resume {run.directory.path} {smaller}"
            if smaller
            else "Lower training.max_completion_length: shorter completions need shorter GPU commands",
        )
    if NOT_FINITE_PHRASE in str(error):
        return not_finite_outcome(run.preflight.recipe)
    disk_error = disk_error_of(error, run.directory.path)
    if disk_error is not None and getattr(error, "errno", None) != errno.ENOENT:
        fix = disk_error.hint.partition(";")[0]
        hint = f"{fix}, then: ida-tui resume {run.directory.path}"
        return Outcome("failed", ExitCode.FAILED, disk_error.reason, hint)
    return Outcome(
        "failed",
        ExitCode.FAILED,
        f"unexpected {type(error).__name__}: {' '.join(str(error).split())[:300]}",
        f"this is a bug in ida-tui; see {run.directory.logs / 'crash.txt'} for details",
        crash=traceback.format_exc(),
    )


def not_finite_outcome(recipe: PrecisionRecipe) -> Outcome:
    """The model's outputs are NaN or infinite for a prompt of the run, so nothing can be sampled."""
    hint = (
        "The weights may be damaged, or the updates too large: lower training.learning_rate, or use"
        " model.torch_dtype=float32"
    )
    if recipe.weights == "float16" or recipe.fp16:
        hint = "They do not fit into float16. Start again with model.torch_dtype=bfloat16"
    return Outcome("failed", ExitCode.FAILED, "the outputs of the model are NaN or infinite", hint)


def out_of_memory_outcome(run: RunContext, reason: str) -> Outcome:
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
    return ev.RunEnded(
        status=outcome.status,
        exit_code=int(outcome.code),
        steps_done=run.last_step,
        reward_first=state.reward_first,
        reward_last=state.reward_last,
        weight_delta=state.weight_delta,
        seconds=round(run.seconds_before + run.clock(), 3),
        cost=run.costs.total.cost,
        message=outcome.message,
        hint=outcome.hint,
        model_change=state.model_change,
        paused_s=round(run.paused_before_s + run.clock.excluded_s, 3),
        judge_cost=run.costs.total,
        judge_quality=run_quality(state).as_numbers(),
    )


def stopped_by_watchdog(error: BaseException) -> bool:
    """Whether macOS ended a GPU command because it blocked the display for too long."""
    return WATCHDOG_PHRASE in str(error).lower()


def smaller_batch_overrides(config: Config) -> str:
    """Overrides that split the same step into smaller batches, as typed; empty if a batch is one row."""
    rows = config.training.per_device_train_batch_size
    if rows == 1:
        return ""
    fewer = next(n for n in range(rows // 2, 0, -1) if rows % n == 0)
    return memory.split_overrides(config.training, fewer)


def nothing_learned_reason(config: Config, steps: Sequence[ev.StepFinished]) -> str:
    """Why the weights of a run did not change, and what to do."""
    varied = [step for step in steps if step.zero_std != 1]
    if varied and all(step.skipped for step in varied):
        return (
            "Every update overflowed, so the gradient scaler skipped it.\n"
            "Lower training.learning_rate, or train in another format (training.bf16=true)"
        )
    if not any(step.scored for step in steps):
        return "No completion was scored. Check the judge: ida-tui judge check"
    truncated = [step.truncated for step in steps if step.truncated is not None]
    if config.training.mask_truncated_completions and all(share == 1 for share in truncated):
        return (
            "Every completion was truncated, and training.mask_truncated_completions excludes these.\n"
            f"Raise training.max_completion_length (now {config.training.max_completion_length})"
        )
    return (
        "Every group had zero variance. Raise training.num_generations or training.temperature,\n"
        "or choose prompts that the model answers in different ways"
    )


def write_final_report(run: RunContext, ended: ev.RunEnded) -> None:
    """Write the report of a finished run, if its profile enables it; a failure only logs a warning.

    Args:
        run: the run.
        ended: the run's last event, not yet written.
    """
    if not run.config.report or ended.status != "done":
        return
    try:
        from ida_tui.analysis.report.write import write_report

        written = write_report(run.directory, ended=ended)
    except IdaError as error:
        _warn_not_written(run, error.title)
    except Exception as error:
        # No error of the report may fail a run whose weights are saved.
        _warn_not_written(run, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
    else:
        text = f"Report: {display_path(written.html)}"
        run.emit(ev.Noticed(level="info", source="report", text=text))


def _warn_not_written(run: RunContext, reason: str) -> None:
    text = (
        f"could not write the report: {reason}; try again with ida-tui report"
        f" {display_path(run.directory.path)}"
    )
    run.emit(ev.Noticed(level="warning", source="report", text=text))
