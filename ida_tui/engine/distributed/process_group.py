"""Process group of a run: collectives between the ranks, and detection of ranks that have exited.

With a single process (`ProcessGroup()`) every collective returns its argument and imports nothing. Several
processes communicate over gloo, even when their gradients use NCCL: a process that dies closes its gloo
connections, so the next collective on the other ranks raises `PeerLostError` immediately instead of waiting.
Rank 0 may wait for a judge or a user for days. The other ranks wait for it inside a gloo collective, whose
timeout is long enough.

The code for CUDA and for several machines has not been tested on such hardware yet.
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
"""Timeout of the gloo collectives. It is long because rank 0 may be paused."""
COMPUTING = timedelta(minutes=30)
"""Timeout of the collectives that average gradients."""
GATHERING_S = 600.0
"""How long the processes wait for each other at the start of a run."""
REAPED_S = 3.0
"""How long a process may take to exit after its connections have closed."""
COMING, READY, ENDED = "ida/coming", "ida/ready", "ida/ended"
"""Keys that rank 0 sets in the store: a run was announced, it has passed its checks, it has ended."""


class RankLost(IdaError):
    """Another process of the run has exited or cannot be reached."""


class Ranks:
    """The processes of a run. `ProcessGroup()` is a single process; `join_process_group` connects several.

    The methods in the section "collectives" must be called by all ranks in the same order. Each of them
    raises `PeerLostError` if another rank has exited.
    """

    def __init__(self, place: Place = ALONE, store: Any = None) -> None:
        self.place = place
        self.rank, self.world, self.alone = place.rank, place.world, place.alone
        self._store = store
        self._talk: Any = None
        self._needed = not place.alone

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which owns the run directory, the judge and the checkpoints."""
        return self.rank == 0

    def part(self, rows: int) -> slice:
        """Slice of this rank's rows in a step with this many rows."""
        rank_rows = rows // self.world
        return slice(self.rank * rank_rows, (self.rank + 1) * rank_rows)

    # -- collectives ----------------------------------------------------------------------------

    def any(self, flag: bool) -> bool:
        """Whether the flag is true on any rank."""
        return flag if self.alone else self.total(int(flag)) > 0

    def total(self, number: int) -> int:
        """Sum of the number over all ranks."""
        return number if self.alone else sum(self.numbers(number))

    def numbers(self, *mine: int) -> list[int]:
        """Gather integers from every rank, concatenated in rank order."""
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
        """Gather an object from every rank, in rank order."""
        if self.alone:
            return [mine]
        import torch.distributed as dist

        gathered: list[Any] = [None] * self.world
        with self._naming_the_lost():
            dist.all_gather_object(gathered, mine, group=self._talk)
        return gathered

    def joined_rows(self, mine: Sequence[T]) -> list[T]:
        """Gather the rows of all ranks, in the order in which a single process would have them."""
        return [row for rank_rows in self.every(list(mine)) for row in rank_rows]

    def told(self, thing: T | None) -> T:
        """Return rank 0's object on every rank. The arguments of the other ranks are ignored."""
        if self.alone:
            assert thing is not None
            return thing
        import torch.distributed as dist

        objects = [thing if self.first else None]
        with self._naming_the_lost():
            dist.broadcast_object_list(objects, src=0, group=self._talk)
        assert objects[0] is not None
        return objects[0]

    def meet(self) -> None:
        """Wait until every rank has reached this point."""
        self.total(0)

    def share_random_numbers(self) -> None:
        """Set the random number generators of every rank, on the host and on CUDA, to rank 0's state."""
        if self.alone:
            return
        import torch

        device = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
        host, device = self.told((torch.get_rng_state(), device))
        torch.set_rng_state(host)
        if device is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(device)

    def mean_gradients(self, parameters: Iterable[Any]) -> None:
        """Replace every gradient by its mean over the ranks, with one all-reduce per number format."""
        if self.alone:
            return
        import torch
        import torch.distributed as dist

        # Detect a lost rank here, where waiting raises an error, rather than in NCCL, where it may hang.
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

    # -- end of the run -----------------------------------------------------------------------

    def say_why(self, why: str) -> None:
        """Store the reason why this rank ends, for rank 0 to read."""
        self._set(f"ida/why/{self.rank}", " ".join(why.split())[:500])

    def leave(self, code: int) -> None:
        """Tell the other ranks that the run has ended with this exit code. Called by rank 0."""
        if not self.alone:
            self._set(ENDED, str(code))

    def word(self) -> int | None:
        """The exit code with which rank 0 has ended the run; None while it has not ended."""
        code = self._get(ENDED)
        return int(code) if code else None

    def release(self) -> None:
        """Stop watching the other ranks: all steps are done, so they may exit."""
        self._needed = False

    def missing(self, wait_s: float = 0.0) -> str:
        """Describe another process that has exited, with its reason if known; empty if there is none.

        The exit of a process on another machine is detected only if it has stored a reason.

        Args:
            wait_s: how long to wait for an exit. A process closes its connections shortly before it exits.
        """
        until = time.monotonic() + wait_s
        while self._needed:
            for rank in (rank for rank in range(self.world) if rank != self.rank):
                why = self._get(f"ida/why/{rank}")
                if why or self.gone(rank):
                    return f"{named(rank, self.world)} ended: " + (
                        why or "killed, or crashed without an error message"
                    )
            if time.monotonic() >= until:
                break
            time.sleep(0.05)
        return ""

    def lost(self, error: BaseException) -> RankLost | None:
        """The `PeerLostError` behind a library's error; None if the error has another cause."""
        if isinstance(error, RankLost) or not self._needed:
            return error if isinstance(error, RankLost) else None
        message = str(error).lower()
        if not any(text in message for text in ("gloo", "nccl", "connection", "broken pipe")):
            return None
        reason = self.missing(REAPED_S)
        if not reason and ("gloo" in message or "nccl" in message):
            reason = f"another of the {self.world} processes has exited or cannot be reached"
        return RankLost(reason) if reason else None

    @contextmanager
    def _naming_the_lost(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise (self.lost(error) or error) from None

    def gone(self, rank: int) -> bool:
        """Whether a process of this machine has exited; always False for processes of other machines."""
        host, _, pid = self._get(f"ida/where/{rank}").rpartition(" ")
        if host != socket.gethostname():
            return False
        try:
            return psutil.Process(int(pid)).status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        except psutil.Error:
            return True

    def _set(self, key: str, value: str) -> None:
        # The launcher hosts the store. If it has exited, no rank is left to read the value.
        with suppress(RuntimeError):
            self._store.set(key, value)

    def _get(self, key: str) -> str:
        with suppress(RuntimeError):
            if self._store.check([key]):
                return str(self._store.get(key), "utf-8")
        return ""


@contextmanager
def joined(place: Place, device: str) -> Iterator[Ranks]:
    """Connect to the other processes of the run for the duration of the block.

    Args:
        process: rank and world size of this process.
        device: the device that trains the model. On CUDA the gradients are averaged with NCCL.

    Raises:
        IdaError: the processes did not all connect within ten minutes.
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
            raise RankLost("the run did not start")
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
            f"the {place.world} processes of the run could not connect: {str(error)[:200]}",
            "start WORLD_SIZE processes with torchrun or accelerate launch",
        ) from None
    try:
        yield ranks
    except IdaError as error:
        if ranks.first:
            ranks.leave(int(error.code))
        raise


@cache
def meeting_point(place: Place) -> Any:
    """Connect to the key-value store that the launcher or rank 0 hosts for all ranks.

    Raises:
        IdaError: the store cannot be reached.
    """
    from torch.distributed.rendezvous import rendezvous

    try:
        store, _, _ = next(
            rendezvous("env://", place.rank, place.world, timeout=timedelta(seconds=GATHERING_S))
        )
    except (RuntimeError, ValueError) as error:
        raise IdaError(
            f"{place.words} could not reach the rendezvous address: {str(error)[:200]}",
            "set MASTER_ADDR and MASTER_PORT, or start with torchrun or accelerate launch, which set them",
        ) from None
    return store


def announce(place: Place, *, offline: bool) -> None:
    """Tell the other ranks that a run is about to start, so that they can load the libraries meanwhile.

    Args:
        process: rank and world size of this process. Does nothing for a single process.
        offline: whether the model is on this machine, so that no library has to contact the hub.
    """
    if not place.alone:
        meeting_point(place).set(COMING, "offline" if offline else "online")


def announced(place: Place) -> str:
    """Wait for rank 0's announcement: "offline", "online", or empty if rank 0 ended without a run."""
    return _said(meeting_point(place), COMING)


def _said(store: Any, key: str) -> str:
    """Wait until rank 0 has set the key and return its value; empty if rank 0 ended without setting it."""
    while not store.check([key]):
        if store.check([ENDED]):
            return ""
        time.sleep(0.1)
    return str(store.get(key), "utf-8")


def dismiss(place: Place, code: int) -> None:
    """Tell the other ranks that no run starts: rank 0 ran another command, or a check failed."""
    if place.alone or place.rank:
        return
    import torch.distributed as dist

    if dist.is_initialized():
        return  # a run has started, and it tells the other ranks how it ended
    with suppress(IdaError, RuntimeError):
        meeting_point(place).set(ENDED, str(code))
