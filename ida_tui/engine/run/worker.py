"""The other processes of a run: they compute their part of every step, and keep and print nothing.

Rank 0 tells them what to compute (`Orders`), asks the judge, saves, evaluates and pauses; they wait for it in
the next exchange. When it ends the run it leaves its exit code behind, and they end quietly.
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
"""How long to wait for rank 0's last word: it saves a checkpoint first."""


class Peer:
    """One of the other ranks.

    Args:
        place: which one.
        control: what is asked of it; a request to stop is passed on to all ranks.
    """

    def __init__(self, place: Place, control: Control) -> None:
        self._place = place
        self._control = control
        self.trouble = ""
        """What ended it, where that was neither rank 0's word nor another rank's end."""

    def follow(self) -> int:
        """Take part in the run until it ends; returns the exit status of this process.

        Raises:
            IdaError: the processes do not find each other.
        """
        environment.prepare(None)
        try:
            coming = announced(self._place)
            if not coming:
                return 0  # rank 0 was asked for something else, or has refused it and said why
            if coming == "offline":
                os.environ.setdefault("HF_HUB_OFFLINE", "1")
            # Seconds, while rank 0 makes its checks.
            from ida_tui.engine.run import build as assembly  # noqa: F401

            with joined(self._place, _device()) as ranks:
                return self._follow(ranks)
        except RankLost:
            return 0  # rank 0 has refused it, and said why

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
        orders: Orders = ranks.told(None)
        environment.prepare(orders.config.model.folder())
        from ida_tui.config import precision
        from ida_tui.engine import quiet
        from ida_tui.engine.device import device
        from ida_tui.engine.model import load as weights
        from ida_tui.engine.run import build as assembly
        from ida_tui.engine.run.preflight import Preflight
        from ida_tui.engine.trainer.recorder import Watcher
        from ida_tui.engine.trainer.reward import OneForAll

        config = orders.config
        device.take(orders.device, self._place.local)
        device.leave_a_core()
        ready = Preflight(
            config=config,
            device=orders.device,
            recipe=precision.recipe(config, orders.device),
            tokenizer=weights.load_tokenizer(config.model),
            limit=0.0,
        )
        with quiet.captured(lambda notice: None):
            trainer = assembly.build_trainer(
                config,
                ready,
                orders.checkpoints,
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
            if orders.trains:
                kept = str(orders.kept) if orders.kept else None
                trainer.train(resume_from_checkpoint=kept)


def _after(ranks: Ranks) -> int:
    """Wait for rank 0 to end the run: a process that leaves first would have the launcher end the others."""
    until = time.monotonic() + LAST_WORD_S
    while time.monotonic() < until:
        if ranks.word() is not None:
            return 0
        if ranks.gone(0):
            return 1
        time.sleep(0.1)
    return 1


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
