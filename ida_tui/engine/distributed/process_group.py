"""The one seam between the processes of a run: who is there, what they tell each other, who is gone.

With one process (`Ranks()`) everything here returns what it was given and touches no library. Several
processes talk over gloo, also where the gradients go over NCCL: a process that dies closes its
connections, so that the others' next exchange raises `RankLost` at once instead of waiting. Rank 0 may
wait for a judge or a person for days; only these exchanges are waited in, and they have the time.

What was written for CUDA and for several machines has not been run there yet.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import psutil

from ida_tui.engine.distributed.environment import ALONE, Place, named
from ida_tui.errors import IdaError

T = TypeVar("T")
PATIENCE = timedelta(days=30)
"""How long one rank waits for what another has to say: rank 0 may be paused."""
COMPUTING = timedelta(minutes=30)
"""How long one rank waits for the gradients of another."""
GATHERING_S = 600.0
"""How long the processes wait for each other at the start."""
REAPED_S = 3.0
"""How long it may take until a process whose connections are closed is seen to be gone."""
COMING, READY, ENDED = "ida/coming", "ida/ready", "ida/ended"
"""What rank 0 leaves at the meeting point: a run is coming, it has passed its checks, it has ended."""


class RankLost(IdaError):
    """Another process of the run has ended, or cannot be reached."""


class Ranks:
    """This process among the others. Made with `joined`; `Ranks()` is one process alone.

    The methods below "exchanges" are that: all ranks call the same ones in the same order, and each raises
    `RankLost` where another rank is gone.
    """

    def __init__(self, place: Place = ALONE, store: Any = None) -> None:
        self.place = place
        self.rank, self.world, self.alone = place.rank, place.world, place.alone
        self._store = store
        self._talk: Any = None
        self._needed = not place.alone

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which owns the run's directory, judge and checkpoints."""
        return self.rank == 0

    def part(self, rows: int) -> slice:
        """This rank's rows of a step of so many."""
        each = rows // self.world
        return slice(self.rank * each, (self.rank + 1) * each)

    # -- exchanges ------------------------------------------------------------------------------

    def any(self, flag: bool) -> bool:
        """Whether it is true on any rank."""
        return flag if self.alone else self.total(int(flag)) > 0

    def total(self, number: int) -> int:
        """The sum over all ranks."""
        return number if self.alone else sum(self.numbers(number))

    def numbers(self, *mine: int) -> list[int]:
        """Some whole numbers of every rank, rank after rank."""
        if self.alone:
            return list(mine)
        import torch
        import torch.distributed as dist

        table = torch.zeros(self.world, len(mine), dtype=torch.int64)
        table[self.rank] = torch.tensor(mine)
        with self._naming_the_lost():
            dist.all_reduce(table, group=self._talk)
        return [int(number) for number in table.flatten().tolist()]

    def every(self, mine: T) -> list[T]:
        """What every rank has, in the order of the ranks."""
        if self.alone:
            return [mine]
        import torch.distributed as dist

        found: list[Any] = [None] * self.world
        with self._naming_the_lost():
            dist.all_gather_object(found, mine, group=self._talk)
        return found

    def joined_rows(self, mine: Sequence[T]) -> list[T]:
        """The rows of all ranks, in the order that one process would have them in."""
        return [row for rows in self.every(list(mine)) for row in rows]

    def told(self, thing: T | None) -> T:
        """What rank 0 has; what the others pass is not looked at."""
        if self.alone:
            assert thing is not None
            return thing
        import torch.distributed as dist

        box = [thing if self.first else None]
        with self._naming_the_lost():
            dist.broadcast_object_list(box, src=0, group=self._talk)
        assert box[0] is not None
        return box[0]

    def meet(self) -> None:
        """Wait until every rank is here."""
        self.total(0)

    def share_random_numbers(self) -> None:
        """Let every rank go on with rank 0's random numbers, on the host and on a CUDA device."""
        if self.alone:
            return
        import torch

        device = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
        host, device = self.told((torch.get_rng_state(), device))
        torch.set_rng_state(host)
        if device is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(device)

    def mean_gradients(self, parameters: Iterable[Any]) -> None:
        """Replace every gradient by its mean over the ranks, in one exchange a number format."""
        if self.alone:
            return
        import torch
        import torch.distributed as dist

        # A rank that is gone is noticed here, where waiting for it raises, not in NCCL, where it may hang.
        self.meet()
        by_format: dict[Any, list[Any]] = {}
        for parameter in parameters:
            if parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                by_format.setdefault(parameter.grad.dtype, []).append(parameter.grad)
        for gradients in by_format.values():
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            with self._naming_the_lost():
                dist.all_reduce(flat)
            flat /= self.world
            start = 0
            for gradient in gradients:
                gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
                start += gradient.numel()

    # -- how it ends --------------------------------------------------------------------------

    def say_why(self, why: str) -> None:
        """Leave word of what ends this rank, for rank 0."""
        self._set(f"ida/why/{self.rank}", " ".join(why.split())[:500])

    def leave(self, code: int) -> None:
        """Tell the others that the run has ended, with this exit code; rank 0's last word."""
        if not self.alone:
            self._set(ENDED, str(code))

    def word(self) -> int | None:
        """The exit code that rank 0 has ended the run with; None while it has not."""
        said = self._get(ENDED)
        return int(said) if said else None

    def release(self) -> None:
        """Every step is made: whether the others are still there does not matter any more."""
        self._needed = False

    def missing(self, wait_s: float = 0.0) -> str:
        """Which other process has ended and, where it said so, why; empty where all seem to be there.

        A process of another machine is known to be gone only when it has left word.

        Args:
            wait_s: how long to look for one: its connections close a moment before it is gone.
        """
        until = time.monotonic() + wait_s
        while self._needed:
            for rank in (rank for rank in range(self.world) if rank != self.rank):
                why = self._get(f"ida/why/{rank}")
                if why or self.gone(rank):
                    return f"{named(rank, self.world)} ended: " + (
                        why or "killed, or crashed without a word"
                    )
            if time.monotonic() >= until:
                break
            time.sleep(0.05)
        return ""

    def lost(self, error: BaseException) -> RankLost | None:
        """What an error of a library means if another rank's end is behind it; None where none is."""
        if isinstance(error, RankLost) or not self._needed:
            return error if isinstance(error, RankLost) else None
        said = str(error).lower()
        if not any(word in said for word in ("gloo", "nccl", "connection", "broken pipe")):
            return None
        gone = self.missing(REAPED_S)
        if not gone and ("gloo" in said or "nccl" in said):
            gone = f"another of {self.world} processes ended, or cannot be reached"
        return RankLost(gone) if gone else None

    @contextmanager
    def _naming_the_lost(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise (self.lost(error) or error) from None

    def gone(self, rank: int) -> bool:
        """Whether a process of this machine has ended; of another machine's nothing is known."""
        host, _, pid = self._get(f"ida/where/{rank}").rpartition(" ")
        if host != socket.gethostname():
            return False
        try:
            return psutil.Process(int(pid)).status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        except psutil.Error:
            return True

    def _set(self, key: str, value: str) -> None:
        # The launcher holds the store; without it nobody is left to read.
        with suppress(RuntimeError):
            self._store.set(key, value)

    def _get(self, key: str) -> str:
        with suppress(RuntimeError):
            if self._store.check([key]):
                return str(self._store.get(key), "utf-8")
        return ""


@contextmanager
def joined(place: Place, device: str) -> Iterator[Ranks]:
    """Find the other processes and stay in touch with them inside the block.

    Args:
        place: this process's.
        device: where the model is trained; on CUDA the gradients go over NCCL.

    Raises:
        IdaError: they were not all there within ten minutes.
    """
    if place.alone:
        yield Ranks()
        return
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore

    store = meeting_point(place)
    ranks = Ranks(place, store)
    store.set(f"ida/where/{place.rank}", f"{socket.gethostname()} {os.getpid()}")
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    try:
        if place.rank and not _said(store, READY):
            raise RankLost("the run did not begin")
        store.set(READY, "1")
        dist.init_process_group(
            backend,
            store=PrefixStore("ida-group", store),
            rank=place.rank,
            world_size=place.world,
            timeout=COMPUTING,
        )
        ranks._talk = dist.new_group(backend="gloo", timeout=PATIENCE)
    except RuntimeError as error:
        raise IdaError(
            f"the {place.world} processes of the run did not find each other: {str(error)[:200]}",
            "start as many as WORLD_SIZE says, with torchrun or accelerate launch",
        ) from None
    try:
        yield ranks
    except IdaError as error:
        if ranks.first:
            ranks.leave(int(error.code))
        raise


@cache
def meeting_point(place: Place) -> Any:
    """The store that the launcher, or rank 0, keeps for all ranks.

    Raises:
        IdaError: it cannot be reached.
    """
    from torch.distributed.rendezvous import rendezvous

    try:
        store, _, _ = next(
            rendezvous("env://", place.rank, place.world, timeout=timedelta(seconds=GATHERING_S))
        )
    except (RuntimeError, ValueError) as error:
        raise IdaError(
            f"{place.words} finds no place to meet the others: {str(error)[:200]}",
            "MASTER_ADDR and MASTER_PORT name it; torchrun and accelerate launch set them",
        ) from None
    return store


def announce(place: Place, *, offline: bool) -> None:
    """Tell the other ranks that a run is about to begin, so that they load the libraries meanwhile.

    Args:
        place: this process's; nothing is told but by rank 0 of several.
        offline: whether the model is on this machine, and no library has to ask a hub.
    """
    if not place.alone:
        meeting_point(place).set(COMING, "offline" if offline else "online")


def announced(place: Place) -> str:
    """Wait for that; empty where rank 0 has left without a run."""
    return _said(meeting_point(place), COMING)


def _said(store: Any, key: str) -> str:
    """Wait for what rank 0 says; empty where it leaves without."""
    while not store.check([key]):
        if store.check([ENDED]):
            return ""
        time.sleep(0.1)
    return str(store.get(key), "utf-8")


def dismiss(place: Place, code: int) -> None:
    """Tell the other ranks that there is no run: rank 0 was asked for something else, or refused it."""
    if place.alone or place.rank:
        return
    import torch.distributed as dist

    if dist.is_initialized():
        return  # there was one, and it has told them how it ended
    with suppress(IdaError, RuntimeError):
        meeting_point(place).set(ENDED, str(code))
