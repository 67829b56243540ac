"""Keeps keys out of everything that is written: the judge's, and whatever else the environment holds."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

SHORTEST = 8
"""Characters; a shorter value is no key, and blotting it out would spoil ordinary words."""
_NAMES_A_SECRET = re.compile(r"(?:_|^)(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD)$", re.IGNORECASE)
_TELLS_NOTHING = re.compile(r"[\w./-]*/[\w./-]*|true|false|\d+", re.IGNORECASE)
"""A path, a switch or a number, under whatever name."""


class Secrets:
    """What nothing may write down.

    Args:
        key: the judge's, where it needs one.
        environment: searched for more, such as ``HF_TOKEN``; a library's error may hold one.
    """

    def __init__(self, key: str | None, environment: Mapping[str, str] = os.environ) -> None:
        self._keys: list[str] = []
        self.add(key)
        for name, value in environment.items():
            if _NAMES_A_SECRET.search(name) and not _TELLS_NOTHING.fullmatch(value):
                self.add(value)

    def add(self, key: str | None) -> None:
        """One more."""
        if key and len(key) >= SHORTEST and key not in self._keys:
            self._keys.append(key)

    def redact(self, text: str) -> str:
        """The text without them."""
        for key in self._keys:
            text = text.replace(key, "[key]")
        return text
