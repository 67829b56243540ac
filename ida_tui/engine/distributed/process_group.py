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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import psutil

from ida_tui.engine.distributed.environment import SINGLE_PROCESS, ProcessInfo, process_label
from ida_tui.errors import IdaError

T = TypeVar("T")
COLLECTIVE_TIMEOUT = timedelta(days=30)
"""Timeout of the gloo collectives. It is long because rank 0 may be paused."""
GRADIENT_TIMEOUT = timedelta(minutes=30)
"""Timeout of the collectives that average gradients."""
RENDEZVOUS_TIMEOUT_S = 600.0
"""How long the processes wait for each other at the start of a run."""
EXIT_DETECTION_S = 3.0
"""How long a process may take to exit after its connections have closed."""
ANNOUNCED_KEY, READY_KEY, ENDED_KEY = "ida/coming", "ida/ready", "ida/ended"
"""Keys that rank 0 sets in the store: a run was announced, it has passed its checks, it has ended."""


class PeerLostError(IdaError):
    """Another process of the run has exited or cannot be reached."""


@dataclass(frozen=True, slots=True)
class _Released:
    """The end of `ProcessGroup.follow`."""

    value: Any


class ProcessGroup:
    """The processes of a run. `ProcessGroup()` is a single process; `join_process_group` connects several.

    The methods in the section "collectives" must be called by all ranks in the same order. Each of them
    raises `PeerLostError` if another rank has exited.
    """

    def __init__(self, process: ProcessInfo = SINGLE_PROCESS, store: Any = None) -> None:
        self.process = process
        self.rank, self.world_size, self.is_single = (
            process.rank,
            process.world_size,
            process.is_single,
        )
        self._store = store
        self._gloo_group: Any = None
        self.shares_model = False
        """Whether the ranks hold parts of one model, which they can only use together."""
        self.is_followed = False
        """On rank 0: whether the other ranks wait for its announcements."""
        self.perform: Callable[[Any], None] = lambda work: None
        """On the other ranks: does what rank 0 announces."""
        self._peers_required = not process.is_single

    @property
    def is_rank_zero(self) -> bool:
        """Whether this is rank 0, which owns the run directory, the judge and the checkpoints."""
        return self.rank == 0

    def local_rows(self, rows: int) -> slice:
        """Slice of this rank's rows in a step with this many rows."""
        rank_rows = rows // self.world_size
        return slice(self.rank * rank_rows, (self.rank + 1) * rank_rows)

    # -- collectives ----------------------------------------------------------------------------

    def any_rank(self, flag: bool) -> bool:
        """Whether the flag is true on any rank."""
        return flag if self.is_single else self.all_reduce_sum(int(flag)) > 0

    def all_reduce_sum(self, number: int) -> int:
        """Sum of the number over all ranks."""
        return number if self.is_single else sum(self.all_gather_ints(number)[0])

    def all_gather_ints(self, *values: int) -> list[list[int]]:
        """Gather integers from every rank: for each argument, the list of all ranks' values in rank order."""
        if self.is_single:
            return [[value] for value in values]
        import torch
        import torch.distributed as dist

        table = torch.zeros(len(values), self.world_size, dtype=torch.int64)
        table[:, self.rank] = torch.tensor(values)
        with self._raising_peer_lost():
            dist.all_reduce(table, group=self._gloo_group)
        gathered: list[list[int]] = table.tolist()
        return gathered

    def all_gather(self, value: T) -> list[T]:
        """Gather an object from every rank, in rank order."""
        if self.is_single:
            return [value]
        import torch.distributed as dist

        gathered: list[Any] = [None] * self.world_size
        with self._raising_peer_lost():
            dist.all_gather_object(gathered, value, group=self._gloo_group)
        return gathered

    def all_gather_rows(self, rows: Sequence[T]) -> list[T]:
        """Gather the rows of all ranks, in the order in which a single process would have them."""
        return [row for rank_rows in self.all_gather(list(rows)) for row in rank_rows]

    def broadcast(self, value: T | None) -> T:
        """Return rank 0's object on every rank. The arguments of the other ranks are ignored."""
        if self.is_single:
            assert value is not None
            return value
        import torch.distributed as dist

        objects = [value if self.is_rank_zero else None]
        with self._raising_peer_lost():
            dist.broadcast_object_list(objects, src=0, group=self._gloo_group)
        assert objects[0] is not None
        return objects[0]

    def barrier(self) -> None:
        """Wait until every rank has reached this point."""
        self.all_reduce_sum(0)

    def sync_rng(self) -> None:
        """Set the random number generators of every rank, on the host and on CUDA, to rank 0's state."""
        if self.is_single:
            return
        import torch

        device = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
        host, device = self.broadcast((torch.get_rng_state(), device))
        torch.set_rng_state(host)
        if device is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(device)

    # -- work that rank 0 announces ------------------------------------------------------------

    @contextmanager
    def leading(self) -> Iterator[None]:
        """Inside the block, the other ranks do what rank 0 announces, if they share a model (`follow`)."""
        self.is_followed = self.shares_model
        yield
        self.release(None)

    def release(self, value: T) -> T:
        """End the waiting of the other ranks, on rank 0; all of them get the value."""
        self.announce(_Released(value))
        self.is_followed = False
        return value

    def announce(self, work: Any) -> None:
        """Have the other ranks do something, if they share a model."""
        if self.shares_model:
            self.broadcast(work)

    def follow(self) -> Any:
        """Do what rank 0 announces until it ends the waiting, and return its value; not on rank 0."""
        while self.shares_model:
            work: Any = self.broadcast(None)
            if isinstance(work, _Released):
                return work.value
            self.perform(work)
        return None

    # -- end of the run -----------------------------------------------------------------------

    def report_failure(self, reason: str) -> None:
        """Store the reason why this rank ends, for rank 0 to read."""
        self._store_set(f"ida/why/{self.rank}", " ".join(reason.split())[:500])

    def publish_exit_code(self, code: int) -> None:
        """Tell the other ranks that the run has ended with this exit code. Called by rank 0."""
        if not self.is_single:
            self._store_set(ENDED_KEY, str(code))

    def exit_code(self) -> int | None:
        """The exit code with which rank 0 has ended the run; None while it has not ended."""
        code = self._store_get(ENDED_KEY)
        return int(code) if code else None

    def allow_peer_exit(self) -> None:
        """Stop watching the other ranks: all steps are done, so they may exit."""
        self._peers_required = False

    def find_lost_peers(self, wait_s: float = 0.0) -> str:
        """Describe another process that has exited, with its reason if known; empty if there is none.

        The exit of a process on another machine is detected only if it has stored a reason.

        Args:
            wait_s: how long to wait for an exit. A process closes its connections shortly before it exits.
        """
        until = time.monotonic() + wait_s
        while self._peers_required:
            for rank in (rank for rank in range(self.world_size) if rank != self.rank):
                why = self._store_get(f"ida/why/{rank}")
                if why or self.has_exited(rank):
                    return f"{process_label(rank, self.world_size)} ended: " + (
                        why or "killed, or crashed without an error message"
                    )
            if time.monotonic() >= until:
                break
            time.sleep(0.05)
        return ""

    def peer_lost_error(self, error: BaseException) -> PeerLostError | None:
        """The `PeerLostError` behind a library's error; None if the error has another cause."""
        if isinstance(error, PeerLostError) or not self._peers_required:
            return error if isinstance(error, PeerLostError) else None
        message = str(error).lower()
        if not any(text in message for text in ("gloo", "nccl", "connection", "broken pipe")):
            return None
        reason = self.find_lost_peers(EXIT_DETECTION_S)
        if not reason and ("gloo" in message or "nccl" in message):
            reason = f"another of the {self.world_size} processes has exited or cannot be reached"
        return PeerLostError(reason) if reason else None

    @contextmanager
    def _raising_peer_lost(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise (self.peer_lost_error(error) or error) from None

    def has_exited(self, rank: int) -> bool:
        """Whether a process of this machine has exited; always False for processes of other machines."""
        host, _, pid = self._store_get(f"ida/where/{rank}").rpartition(" ")
        if host != socket.gethostname():
            return False
        try:
            return psutil.Process(int(pid)).status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        except psutil.Error:
            return True

    def _store_set(self, key: str, value: str) -> None:
        # The launcher hosts the store. If it has exited, no rank is left to read the value.
        with suppress(RuntimeError):
            self._store.set(key, value)

    def _store_get(self, key: str) -> str:
        with suppress(RuntimeError):
            if self._store.check([key]):
                return str(self._store.get(key), "utf-8")
        return ""


@contextmanager
def join_process_group(process: ProcessInfo, device: str) -> Iterator[ProcessGroup]:
    """Connect to the other processes of the run for the duration of the block.

    Args:
        process: rank and world size of this process.
        device: the device that trains the model. On CUDA the gradients are averaged with NCCL.

    Raises:
        IdaError: the processes did not all connect within ten minutes.
    """
    if process.is_single:
        yield ProcessGroup()
        return
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore

    store = rendezvous_store(process)
    group = ProcessGroup(process, store)
    store.set(f"ida/where/{process.rank}", f"{socket.gethostname()} {os.getpid()}")
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    try:
        if process.rank and not _wait_for_key(store, READY_KEY):
            raise PeerLostError("the run did not start")
        store.set(READY_KEY, "1")
        dist.init_process_group(
            backend,
            store=PrefixStore("ida-group", store),
            rank=process.rank,
            world_size=process.world_size,
            timeout=GRADIENT_TIMEOUT,
        )
        group._gloo_group = dist.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT)
    except RuntimeError as error:
        raise IdaError(
            f"the run's {process.world_size} processes could not connect to each other: {str(error)[:200]}",
            "start WORLD_SIZE processes with torchrun or accelerate launch",
        ) from None
    try:
        yield group
    except IdaError as error:
        if group.is_rank_zero:
            group.publish_exit_code(int(error.code))
        raise


@cache
def rendezvous_store(process: ProcessInfo) -> Any:
    """Connect to the key-value store that the launcher or rank 0 hosts for all ranks.

    Raises:
        IdaError: the store cannot be reached.
    """
    from torch.distributed.rendezvous import rendezvous

    try:
        store, _, _ = next(
            rendezvous(
                "env://",
                process.rank,
                process.world_size,
                timeout=timedelta(seconds=RENDEZVOUS_TIMEOUT_S),
            )
        )
    except (RuntimeError, ValueError) as error:
        raise IdaError(
            f"{process.label} could not reach the rendezvous address: {str(error)[:200]}",
            "set MASTER_ADDR and MASTER_PORT, or start with torchrun or accelerate launch, which set them",
        ) from None
    return store


def announce_run(process: ProcessInfo, *, offline: bool) -> None:
    """Tell the other ranks that a run is about to start, so that they can load the libraries meanwhile.

    Args:
        process: rank and world size of this process. Does nothing for a single process.
        offline: whether the model is on this machine, so that no library has to contact the hub.
    """
    if not process.is_single:
        rendezvous_store(process).set(ANNOUNCED_KEY, "offline" if offline else "online")


def wait_for_announcement(process: ProcessInfo) -> str:
    """Wait for rank 0's announcement: "offline", "online", or empty if rank 0 ended without a run."""
    return _wait_for_key(rendezvous_store(process), ANNOUNCED_KEY)


def published_exit_code(process: ProcessInfo) -> int:
    """The exit code with which rank 0 has ended a run that did not start; 1 if it is unknown."""
    with suppress(IdaError, RuntimeError):
        store = rendezvous_store(process)
        if store.check([ENDED_KEY]):
            return int(store.get(ENDED_KEY))
    return 1


def _wait_for_key(store: Any, key: str) -> str:
    """Wait until rank 0 has set the key and return its value; empty if rank 0 ended without setting it."""
    while not store.check([key]):
        if store.check([ENDED_KEY]):
            return ""
        time.sleep(0.1)
    return str(store.get(key), "utf-8")


def announce_no_run(process: ProcessInfo, code: int) -> None:
    """Tell the other ranks that no run starts: rank 0 ran another command, or a check failed."""
    if process.is_single or process.rank:
        return
    import torch.distributed as dist

    if dist.is_initialized():
        return  # a run has started, and it tells the other ranks how it ended
    with suppress(IdaError, RuntimeError):
        rendezvous_store(process).set(ENDED_KEY, str(code))
