"""Redaction of secrets from everything a run writes: the judge's API key and secrets in the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

SHORTEST = 8
"""Shortest secret, in characters. Redacting shorter values would garble ordinary words."""
_NAMES_A_SECRET = re.compile(r"(?:_|^)(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD)$", re.IGNORECASE)
_TELLS_NOTHING = re.compile(r"[\w./-]*/[\w./-]*|true|false|\d+", re.IGNORECASE)
"""A path, a boolean or a number. Such a value is not secret, whatever the variable's name."""


class Secrets:
    """Values that must not appear in any file or output.

    Args:
        key: the judge's API key; None if the judge needs none.
        environment: searched for further secrets such as ``HF_TOKEN``, which a library's error may contain.
    """

    def __init__(self, key: str | None, environment: Mapping[str, str] = os.environ) -> None:
        self._keys: list[str] = []
        self.add(key)
        for name, value in environment.items():
            if _NAMES_A_SECRET.search(name) and not _TELLS_NOTHING.fullmatch(value):
                self.add(value)

    def add(self, key: str | None) -> None:
        """Add a secret. Values shorter than 8 characters are ignored."""
        if key and len(key) >= SHORTEST and key not in self._keys:
            self._keys.append(key)

    def redact(self, text: str) -> str:
        """Replace every secret in the text by ``[key]``."""
        for key in self._keys:
            text = text.replace(key, "[key]")
        return text
