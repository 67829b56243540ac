"""Redaction of secrets from everything a run writes: the judge's API key and secrets in the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

MIN_SECRET_LENGTH = 8
"""Shortest secret, in characters. Redacting shorter values would garble ordinary words."""
_SECRET_NAME = re.compile(r"(?:_|^)(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD)$", re.IGNORECASE)
_HARMLESS_VALUE = re.compile(r"[\w./-]*/[\w./-]*|true|false|\d+", re.IGNORECASE)
"""A path, a boolean or a number. Such a value is not secret, whatever the variable's name."""


class Secrets:
    """Values that must not appear in any file or output.

    Args:
        key: the judge's API key; None if the judge needs none.
        environment: searched for further secrets such as `HF_TOKEN`, which a library's error may contain.
    """

    def __init__(self, key: str | None, environment: Mapping[str, str] = os.environ) -> None:
        self._values: list[str] = []
        self.add(key)
        for name, value in environment.items():
            if _SECRET_NAME.search(name) and not _HARMLESS_VALUE.fullmatch(value):
                self.add(value)

    def add(self, secret: str | None) -> None:
        """Add a secret. Values shorter than 8 characters are ignored."""
        if secret and len(secret) >= MIN_SECRET_LENGTH and secret not in self._values:
            self._values.append(secret)

    def redact(self, text: str) -> str:
        """Replace every secret in the text by `[key]`."""
        for key in self._values:
            text = text.replace(key, "[key]")
        return text
