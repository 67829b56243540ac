"""Worker process of a distributed run: every rank except rank 0.

A worker computes its part of every step. It writes and prints nothing. Rank 0 sends it the run (`RunSpec`),
calls the judge, saves, evaluates and pauses, while the workers wait in their next collective. When rank 0
ends the run, it publishes its exit code and the workers exit without a message.
"""

from __future__ import annotations

import os
import time

from ida_tui.engine import libraries as environment
from ida_tui.engine.distributed.environment import Place
from ida_tui.engine.distributed.process_group import RankLost, Ranks, announced, joined
from ida_tui.engine.exceptions import RunInterrupted
from ida_tui.engine.run.control import Control
from ida_tui.engine.run.orders import Orders
from ida_tui.errors import IdaError

LAST_WORD_S = 60.0
"""How long to wait for rank 0's exit code. Rank 0 saves a checkpoint first."""


class Peer:
    """A rank other than rank 0.

    Args:
        process: rank and world size of this process.
        control: receives stop requests, which are forwarded to all ranks.
    """

    def __init__(self, place: Place, control: Control) -> None:
        self._place = place
        self._control = control
        self.trouble = ""
        """Error message if this process failed; empty if rank 0 ended the run or another rank exited."""

    def follow(self) -> int:
        """Work on the run until it ends, and return the exit status of this process.

        Raises:
            IdaError: the processes could not connect.
        """
        environment.prepare(None)
        try:
            announcement = announced(self._place)
            if not announcement:
                return 0  # rank 0 ran another command, or printed why it starts no run
            if announcement == "offline":
                os.environ.setdefault("HF_HUB_OFFLINE", "1")
            # This import takes seconds. Do it while rank 0 runs its checks.
            from ida_tui.engine.run import build as assembly  # noqa: F401

            with joined(self._place, _device()) as ranks:
                return self._follow(ranks)
        except RankLost:
            return 0  # rank 0 printed why the run does not start

    def _follow(self, ranks: Ranks) -> int:
        try:
            self._take_part(ranks)
        except (RunInterrupted, RankLost):
            return _after(ranks)
        except Exception as error:
            if ranks.lost(error):
                return _after(ranks)
            self.trouble = (
                error.title if isinstance(error, IdaError) else f"{type(error).__name__}: {error}"
            )
            ranks.say_why(self.trouble)
            return 1
        return 0

    def _take_part(self, ranks: Ranks) -> None:
        spec: Orders = ranks.told(None)
        environment.prepare(spec.config.model.folder())
        from ida_tui.config import precision
        from ida_tui.engine import quiet
        from ida_tui.engine.device import device
        from ida_tui.engine.model import load as weights
        from ida_tui.engine.run import build as assembly
        from ida_tui.engine.run.preflight import Preflight
        from ida_tui.engine.trainer.recorder import Watcher
        from ida_tui.engine.trainer.reward import OneForAll

        config = spec.config
        device.take(spec.device, self._place.local)
        device.leave_a_core()
        ready = Preflight(
            config=config,
            device=spec.device,
            recipe=precision.recipe(config, spec.device),
            tokenizer=weights.load_tokenizer(config.model),
            limit=0.0,
        )
        with quiet.captured(lambda notice: None):
            trainer = assembly.build_trainer(
                config,
                ready,
                spec.checkpoints,
                ranks=ranks,
                watcher=Watcher(
                    lambda event: None,
                    self._control.stop,
                    config.planned_steps(),
                    agree=ranks.any,
                ),
                judging=OneForAll(ranks, None),
                after_step=lambda: None,
                between_steps=lambda: None,
                checkpoint_facts=dict,
            )
            ranks.meet()
            if spec.trains:
                checkpoint = str(spec.kept) if spec.kept else None
                trainer.train(resume_from_checkpoint=checkpoint)


def _after(ranks: Ranks) -> int:
    """Wait for rank 0 to end the run. If a worker exited first, the launcher would kill the other ranks."""
    deadline = time.monotonic() + LAST_WORD_S
    while time.monotonic() < deadline:
        if ranks.word() is not None:
            return 0
        if ranks.gone(0):
            return 1
        time.sleep(0.1)
    return 1


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
