"""Context limit of a judge's server that cuts a longer request without an error, found by its token counts.

A request is suspect if the server counts fewer tokens than it has words. That alone proves nothing: older
servers leave out the tokens that they had cached. So one suspect request is sent again with more text. A
server that counts no more tokens than before has cut both of them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable

from ida_tui.judge.backends.openai.prompt import JudgeMessages
from ida_tui.util.text import SPACELESS_LETTER, split_words

MIN_CONTEXT = 256
"""Smallest context to believe, in tokens; below it, a server's counts mean nothing."""
CONTEXT_STEP = 256
"""Contexts are multiples of this many tokens."""
COUNT_NOISE = 16
"""Tokens by which the counts of two requests that were cut may differ."""
MAX_TRIALS = 2
"""Most requests that are sent again to find out."""
_SPACELESS = re.compile(SPACELESS_LETTER)
_SPACELESS_PER_TOKEN = 2.0
"""Letters per token of scripts without spaces; models have 1 to 2."""


def least_tokens(messages: JudgeMessages) -> int:
    """The number of tokens that a request has at least: no token has parts of two words."""
    text = f"{messages.system}\n{messages.user}"
    letters = len(_SPACELESS.findall(text))
    return len(split_words(text)) - letters + int(letters / _SPACELESS_PER_TOKEN)


class ContextLimit:
    """The context limit of one endpoint, as far as its replies show one. Use it on one event loop.

    Args:
        max_tokens: maximum length of a reply, for which some servers leave room.
    """

    def __init__(self, max_tokens: int) -> None:
        self._lock = asyncio.Lock()
        self._tokens: int | None = None
        """Tokens that the server reads of a request; None if it has cut none."""
        self._max_tokens = max_tokens
        self._lengths: dict[int, tuple[int, int]] = {}
        """Shortest and longest request of each token count, in words."""
        self._trials = 0
        self._counts_all = True
        """Whether a longer request has a higher count."""

    async def cuts(
        self,
        count: int,
        words: int,
        count_longer: Callable[[], Awaitable[tuple[int, int] | None]],
    ) -> bool:
        """Whether the server cut a request.

        Args:
            count: the tokens that the server counted.
            words: the tokens that the request has at least.
            count_longer: sends the same request with more text; gives the same two figures for it, or None if
                the server did not count it.
        """
        low, high = self._lengths.get(count, (words, words))
        self._lengths[count] = min(low, words), max(high, words)
        if self._is_suspect(count, words):
            async with self._lock:
                if self._is_suspect(count, words):
                    self._trials += 1
                    self._compare(count, words, await count_longer())
        if self._tokens is None:
            return False
        is_near = abs(count - self._tokens) <= COUNT_NOISE
        return count == self._tokens or (count < words and is_near)

    def _is_suspect(self, count: int, words: int) -> bool:
        """Whether a request may have been cut, and a trial may show it."""
        if not self._counts_all or self._tokens is not None or self._trials >= MAX_TRIALS:
            return False
        low, high = self._lengths[count]
        same_count = count >= max(self._lengths) and high - low > COUNT_NOISE
        return (count < words or same_count) and self._is_credible(count)

    def _compare(self, count: int, words: int, longer: tuple[int, int] | None) -> None:
        """Compare a suspect request with a longer one."""
        if longer is None:
            return
        longer_count, longer_words = longer
        if longer_count - count < (longer_words - words) / 2:
            self._tokens = count
        elif count < words:
            self._counts_all = False  # it counts what it had not cached

    def _is_credible(self, count: int) -> bool:
        """Whether a count may be a limit: others differ from it, or it is the size of a context.

        Some servers report the same count for every request.
        """
        if count < MIN_CONTEXT:
            return False
        sizes = (count, count + self._max_tokens)
        return any(abs(other - count) > COUNT_NOISE for other in self._lengths) or any(
            (size + COUNT_NOISE) % CONTEXT_STEP <= 2 * COUNT_NOISE for size in sizes
        )
