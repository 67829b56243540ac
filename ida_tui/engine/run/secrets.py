"""Redaction of secrets from everything a run writes: the judge's API key and secrets in the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping

from ida_tui.config.schema import JudgeKey
from ida_tui.util.secrets import MIN_SECRET_LENGTH, secret_forms, secret_values


class Secrets:
    """Values that must not appear in any file or output.

    Args:
        key: the judge's API key, or those of a panel; None if the judge needs none.
        environment: searched for further secrets such as `HF_TOKEN`, which a library's error may contain.
    """

    def __init__(self, key: JudgeKey, environment: Mapping[str, str] = os.environ) -> None:
        self._values: list[str] = []
        self.add(key)
        for secret in secret_values(environment):
            self.add(secret)

    def add(self, secret: JudgeKey) -> None:
        """Add a secret, also as JSON and URLs write it. Values shorter than 8 characters are ignored."""
        if isinstance(secret, tuple):
            for key in secret:
                self.add(key)
            return
        for value in dict.fromkeys(((secret or "").strip(), (secret or "").strip().strip("'\""))):
            if len(value) >= MIN_SECRET_LENGTH:
                forms = dict.fromkeys(secret_forms(value))
                self._values += [form for form in forms if form not in self._values]
        # A secret that contains another one is replaced first.
        self._values.sort(key=len, reverse=True)

    def redact(self, text: str) -> str:
        """Replace every secret in the text by `[key]`."""
        for key in self._values:
            text = text.replace(key, "[key]")
        return text
