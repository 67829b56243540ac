"""Keeps the keys of a run out of everything that is written."""

from __future__ import annotations


class Secrets:
    """Keys of this run, which nothing may write down."""

    def __init__(self, key: str | None) -> None:
        self._keys: list[str] = []
        self.add(key)

    def add(self, key: str | None) -> None:
        """One more; a key too short to be one is left alone, as it would blot out ordinary words."""
        if key and len(key) >= 8 and key not in self._keys:
            self._keys.append(key)

    def redact(self, text: str) -> str:
        """The text without them."""
        for key in self._keys:
            text = text.replace(key, "[key]")
        return text
