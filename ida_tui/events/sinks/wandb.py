"""Weights & Biases: online where there is a key for it, else offline; it never asks for one."""

from __future__ import annotations

import netrc
import os
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ida_tui.events import types as ev
from ida_tui.events.sinks.base import Note, Place, figures, figures_of

PROJECT = "ida-tui"
SERVER = "https://api.wandb.ai"
INIT_S = 30
NO_KEY = "no key for W&B was found (WANDB_API_KEY, wandb login): it runs offline"


class Wandb:
    """One W&B run for one run, also where that is gone on with."""

    name = "wandb"

    def __init__(self) -> None:
        self._run: Any = None

    def start(self, place: Place) -> str:
        """Open the run under an id that is kept with it; returns where it is seen."""
        import wandb

        mode: Any = os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")
        lacks_key = mode in ("online", "shared") and not has_key()
        if lacks_key:
            mode = "offline"
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            group=place.experiment,
            name=f"{place.experiment}/{place.run_id}",
            id=_id(place),
            resume="allow",
            mode=mode,
            dir=os.environ.get("WANDB_DIR") or str(place.directory),
            config=dict(place.settings),
            settings=wandb.Settings(
                console="off",
                silent=True,
                init_timeout=INIT_S,
                # Another run of this process is not ours to end.
                reinit="create_new",
                # The command line, the environment and the code are nobody else's business.
                disable_git=True,
                save_code=False,
                x_disable_meta=True,
            ),
        )
        # By our own step: a run that goes on does some of its steps again.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        if lacks_key or (self._run.offline and not os.environ.get("WANDB_MODE")):
            return NO_KEY
        return "" if self._run.offline or self._run.disabled else f"W&B run: {self._run.url}"

    def step(self, step: ev.StepFinished) -> None:
        """Send a step's figures."""
        self._run.log(figures(step))

    def note(self, note: Note) -> None:
        """Send its figures at its step."""
        self._run.log({**figures_of(note), "step": note.step})

    def end(self, ended: ev.RunEnded) -> str:
        """Upload what is left, or say how to."""
        self._run.summary["status"] = ended.status
        offline, folder = self._run.offline, Path(self._run.dir).parent
        url = None if offline else self._run.url
        # An exit code other than 0 marks a crash; a run that somebody stopped has not crashed.
        self._run.finish(exit_code=0 if ended.status in ("done", "interrupted") else 1)
        if self._run.disabled:
            return ""
        if offline:
            return f"W&B ran offline; upload it with: wandb sync {folder}"
        return f"W&B run: {url}"


def has_key() -> bool:
    """Whether W&B finds a key where it looks for one: its variables, or a netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or SERVER).hostname or ""
    places = [Path(named)] if (named := os.environ.get("NETRC")) else []
    for path in (*places, Path.home() / ".netrc", Path.home() / "_netrc"):
        try:
            if netrc.netrc(str(path)).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def _id(place: Place) -> str:
    """The run's id at W&B, which a run that goes on shares."""
    path = place.directory / "logs" / "wandb-id"
    try:
        kept = path.read_text(encoding="utf-8").strip()
    except OSError:
        kept = ""
    if not kept:
        kept = secrets.token_hex(4)
        path.parent.mkdir(exist_ok=True)
        path.write_text(kept + "\n", encoding="utf-8")
    return kept
