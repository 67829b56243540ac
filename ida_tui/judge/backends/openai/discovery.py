"""Discovery of an endpoint's capabilities by its first requests, at the cost of at most two refused ones.

While nothing is known, one request leads, and the others wait for its answer for a moment: a server refuses
fast and judges slowly. The first refusal takes away what it names, or the response format if it names
nothing. The second one takes away everything that can be spared. If only one request was refused, one more is
spent on a feature that was perhaps given up without need.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

from ida_tui.judge.backends.openai.capabilities import BASE_PATH, Capabilities
from ida_tui.judge.errors import RequestFault

MAX_REFUSALS = 2
"""Largest number of refused requests of a discovery."""
LEAD_S = 0.25
"""Longest wait for the answer to the request that leads, in seconds."""


@dataclass(slots=True, eq=False)
class Turn:
    """Permission to send one request."""

    capabilities: Capabilities
    """What the request may use."""
    leads: bool = False
    """Whether other requests wait for its answer."""
    is_trial: bool = False
    """Whether it tries a feature that was given up without need, perhaps."""
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    until: float = 0.0
    """When the others stop to wait, on the clock of the discovery."""


class Discovery:
    """What one endpoint accepts. Use it on one event loop.

    Args:
        stored: the capabilities found earlier; None if nothing is known.
        schema_field: whether a server may know llama.cpp's `schema` field, as those on this machine do.
        lead_s: longest wait for the request that leads, in seconds.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self,
        stored: Capabilities | None,
        *,
        schema_field: bool = True,
        lead_s: float = LEAD_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.current = stored or Capabilities()
        """What the next request uses."""
        self._accepted = stored is not None
        """Whether the server has accepted a request with `current`."""
        self._earlier: Capabilities | None = stored
        """What the server accepted before it refused something."""
        self._is_final = False
        """Whether a refusal says nothing about the server, because an earlier one was about a text."""
        self._refused: list[Capabilities] = []
        """What the server refused, in the order of the requests."""
        self._rotation: Iterator[Capabilities] | None = None
        """Everything that was refused, in turn, once nothing is left to try."""
        self._wish: Capabilities | None = None
        """What to try once after a request is accepted."""
        self._tries_bare = False
        """Whether the next request goes without everything that it can do without."""
        self._leader: Turn | None = None
        self._schema_field = schema_field
        self._lead_s = lead_s
        self._clock = clock

    async def wait(self) -> None:
        """Wait while a request leads whose answer may come at once."""
        while (leader := self._waited_for()) is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(leader.until - self._clock()):
                    await leader.answered.wait()

    def take_turn(self) -> Turn | None:
        """The turn of the next request; None if it has to wait again."""
        if self._tries_bare:
            self._tries_bare = False
            return Turn(self.current.bare(), is_trial=True)
        if self._accepted:
            if self._wish is None:
                return Turn(self.current)
            turn, self._wish = Turn(self._wish, is_trial=True), None
            return turn
        if self._rotation is not None:
            return Turn(next(self._rotation))
        if self._leader is not None:
            return None if self._waited_for() is not None else Turn(self.current)
        self._leader = Turn(self.current, leads=True, until=self._clock() + self._lead_s)
        return self._leader

    @contextmanager
    def sending(self, turn: Turn) -> Iterator[Turn]:
        """Send a request inside the block, with the newest capabilities of its turn."""
        if turn.leads:
            turn.until = self._clock() + self._lead_s
        elif not turn.is_trial and self._rotation is None:
            turn.capabilities = self.current
        try:
            yield turn
        finally:
            self._end_lead(turn)

    def accept(self, turn: Turn) -> None:
        """The server accepted the request, whatever it replied."""
        if self._accepted and not turn.is_trial:
            return
        if not turn.is_trial and turn.capabilities in self._refused:
            # It refused the same features of another request, so that refusal was about that one's text.
            self._wish = None
        self.current, self._accepted, self._rotation = turn.capabilities, True, None
        self._end_lead(turn)

    def refuse(self, turn: Turn, fault: RequestFault) -> bool:
        """The server refused the request; returns whether to send it again, with other capabilities."""
        if turn.is_trial:
            return True
        if self._rotation is not None and not self._accepted:
            return False
        if turn.capabilities != self.current:
            return True  # another request found out before
        if self._accepted:
            if self._is_final:
                return False
            self._earlier, self._accepted, self._refused = self.current, False, []
        self._refused.append(self.current)
        self._end_lead(turn)
        step = self._next_step(fault)
        if step is not None:
            self.current, self._wish = step
            return True
        if self._earlier is not None:
            self.current, self._accepted, self._is_final = self._earlier, True, True
        else:
            self.current = self._refused[0]
            self._rotation = itertools.cycle(self._refused)
        self._wish = None
        return False

    def simplify_format(self, used: Capabilities) -> None:
        """Use a simpler output format from now on, because a reply ignored the one that was `used`."""
        simpler = used.with_simpler_format()
        if simpler is not None and self.current.output_format.rank <= used.output_format.rank:
            self.current = replace(self.current, output_format=simpler.output_format)
            self._wish = None

    def try_bare(self) -> None:
        """Send the next request bare, because a server fails that has accepted none and names no reason.

        If that is accepted, one more request tries everything again: the server may just have started.
        """
        if not self._accepted and not self._refused:
            self._tries_bare, self._wish = True, self.current

    def append_path(self) -> None:
        """Append /v1 to the address of all requests, because the server lists its models there."""
        self.current = replace(self.current, refused=self.current.refused | {BASE_PATH})

    def _next_step(self, fault: RequestFault) -> tuple[Capabilities, Capabilities | None] | None:
        """What to use after a refusal, and what to try once that is accepted; None if nothing is left."""
        if len(self._refused) > MAX_REFUSALS:
            return None
        current, wish = self.current, None
        if len(self._refused) == 1:
            current, wish = current.without(fault.features, schema_field=self._schema_field)
        if current in self._refused:
            current, wish = self.current.bare(), None
        return None if current in self._refused else (current, wish)

    def _waited_for(self) -> Turn | None:
        """The request that leads, while the others wait for its answer."""
        leader = self._leader
        if self._accepted or leader is None or self._clock() >= leader.until:
            return None
        return leader

    def _end_lead(self, turn: Turn) -> None:
        """Let the others go on."""
        if self._leader is turn:
            self._leader = None
        turn.answered.set()
