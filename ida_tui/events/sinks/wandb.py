"""Weights & Biases sink: online if an API key is configured, otherwise offline; never prompts for a key."""

from __future__ import annotations

import netrc
import os
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ida_tui.events import types as ev
from ida_tui.events.sinks.base import RunInfo, SinkEvent, event_metrics, step_metrics
from ida_tui.util.safe_files import make_directory, read_bytes, write_text

DEFAULT_PROJECT = "ida-tui"
DEFAULT_SERVER = "https://api.wandb.ai"
INIT_TIMEOUT_S = 30
NO_KEY_NOTICE = "no W&B API key is set (WANDB_API_KEY or wandb login): W&B runs offline"


class WandbSink:
    """Sends each run to one W&B run, also after a resume."""

    name = "wandb"

    def __init__(self) -> None:
        self._run: Any = None

    def start(self, run: RunInfo) -> str:
        """Open the W&B run with the id stored in the run directory; returns its URL for the log."""
        import wandb

        mode: Any = os.environ.get("WANDB_MODE") or ("online" if has_api_key() else "offline")
        lacks_key = mode in ("online", "shared") and not has_api_key()
        if lacks_key:
            mode = "offline"
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", DEFAULT_PROJECT),
            group=run.experiment,
            name=f"{run.experiment}/{run.run_id}",
            id=_wandb_id(run),
            resume="allow",
            mode=mode,
            dir=os.environ.get("WANDB_DIR") or str(run.directory),
            config=dict(run.settings),
            settings=wandb.Settings(
                console="off",
                silent=True,
                init_timeout=INIT_TIMEOUT_S,
                # Do not end other W&B runs of this process.
                reinit="create_new",
                # Do not upload the command line, the environment or the code.
                disable_git=True,
                save_code=False,
                x_disable_meta=True,
            ),
        )
        # Use the training step as the x-axis: a resumed run repeats some steps.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        if lacks_key or (self._run.offline and not os.environ.get("WANDB_MODE")):
            return NO_KEY_NOTICE
        return "" if self._run.offline or self._run.disabled else f"W&B run: {self._run.url}"

    def step(self, step: ev.StepFinished) -> None:
        """Send the metrics of a step."""
        self._run.log(step_metrics(step))

    def note(self, note: SinkEvent) -> None:
        """Send the metrics of an evaluation or an alert at its step."""
        self._run.log({**event_metrics(note), "step": note.step})

    def end(self, ended: ev.RunEnded) -> str:
        """Finish the upload; offline, return the command that uploads the run."""
        self._run.summary["status"] = ended.status
        offline, folder = self._run.offline, Path(self._run.dir).parent
        url = None if offline else self._run.url
        # W&B shows a nonzero exit code as a crash, and a stopped run has not crashed.
        self._run.finish(exit_code=0 if ended.status in ("done", "interrupted") else 1)
        if self._run.disabled:
            return ""
        if offline:
            return f"W&B ran offline; upload it with: wandb sync {folder}"
        return f"W&B run: {url}"


def has_api_key() -> bool:
    """Whether W&B has an API key, in its environment variables or a netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or DEFAULT_SERVER).hostname or ""
    custom = [Path(name)] if (name := os.environ.get("NETRC")) else []
    for path in (*custom, Path.home() / ".netrc", Path.home() / "_netrc"):
        try:
            if netrc.netrc(str(path)).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def _wandb_id(run: RunInfo) -> str:
    """The W&B id of the run, stored in the run directory so that a resumed run uses the same id."""
    path = run.directory / "logs" / "wandb-id"
    try:
        wandb_id = read_bytes(path, 100).decode("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        wandb_id = ""
    if not wandb_id:
        wandb_id = secrets.token_hex(4)
        make_directory(path.parent)
        write_text(path, wandb_id + "\n")
    return wandb_id
