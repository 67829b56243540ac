"""Recognition of secrets, in names and in values, and their removal from texts."""

from __future__ import annotations

import base64
import html
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase
from urllib.parse import quote

MIN_SECRET_LENGTH = 8
"""Shortest secret that is removed, in characters. Removing shorter values would garble ordinary words."""
_PART_LENGTH = 6
"""Shortest part of a secret that is removed from what a server says."""
_WORD_LENGTH = 10
"""The same for a part that has only letters of one case, as ordinary words do."""
_MIN_SHORT_SECRET = 4
"""Shortest secret that is removed as a whole, in characters."""
_ESCAPE = re.compile(
    r"\\u([0-9A-Fa-f]{4})|%([0-9A-Fa-f]{2})|\\([^\w\s])|(&(?:#\d{1,7}|#[xX][0-9A-Fa-f]{1,6}|\w{1,31});)"
)
"""Escapes of JSON, of addresses and of web pages."""
_MAX_ESCAPES = 3
"""How often a text is unescaped: a verdict is JSON inside of JSON."""
_TO_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)
"""Keeps the length of every text, which `str.lower` does not."""

_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEY = re.compile(
    r"(?i:sk|pk|rk|hf|gsk|xai|ghp|gho|ghs|github_pat|glpat|nvapi|aiza|r8)_?(?=\w*[a-z])(?=\w*[0-9])\w{16,}"
    r"|AKIA[0-9A-Z]{12,}"
    r"|[0-9A-Fa-f]{32,}"
    r"|(?=\w*[a-z])(?=\w*[A-Z])(?=\w*[0-9])\w{20,}"
)
"""API keys that consist of letters, digits and underscores only, as names do."""
_DASHED_KEY = re.compile(r"(?:sk|pk|rk|xai|glpat)-(?=[\w-]*[0-9])[\w-]{16,}")
_SECRET_NAME = re.compile(
    r"(?:_|^)(?:API_?KEY|KEY|KEY_ID|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|DSN)$",
    re.IGNORECASE,
)
_URL_PASSWORD = re.compile(r"[A-Za-z][\w+.-]*://[^\s/?#]*?:([^\s/?#]+)@")


def is_variable_name(text: str) -> bool:
    """Whether a text is the name of an environment variable, and not a key in its place."""
    return bool(_VARIABLE_NAME.fullmatch(text)) and not _KEY.fullmatch(text)


def secret_values(environment: Mapping[str, str]) -> list[str]:
    """The secrets in an environment: values of variables such as `HF_TOKEN`, and passwords in URLs."""
    secrets = []
    for name, value in environment.items():
        if _SECRET_NAME.search(name) and not _is_harmless(value):
            secrets.append(value)
        secrets += [match.group(1) for match in _URL_PASSWORD.finditer(value)]
    return secrets


def environment_without_secrets() -> dict[str, str]:
    """The environment of this process without the variables that hold a secret, for a child process."""
    return {name: value for name, value in os.environ.items() if not secret_values({name: value})}


def is_key(text: str) -> bool:
    """Whether a text looks like a key, and not like a name or a number."""
    return bool(_KEY.fullmatch(text.replace("-", "_"))) or bool(_DASHED_KEY.match(text))


def secret_forms(secret: str) -> Iterator[str]:
    """A secret as it is, and as JSON, addresses and basic authorization write it."""
    yield secret
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    yield quote(secret, safe="")
    yield base64.b64encode(secret.encode()).decode()


class SecretFilter:
    """Removes secrets from the texts of a server, whatever their capitals and escapes, and parts of them.

    Args:
        secrets: the secrets that it got. One that is shorter than `MIN_SECRET_LENGTH` is removed as a whole,
            unless it may be an ordinary word, such as the `none` of a server that needs no key.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        known = [secret for secret in secrets if secret]
        long = [secret for secret in known if len(secret) >= MIN_SECRET_LENGTH]
        short = [secret for secret in known if secret not in long and _is_short_secret(secret)]
        self._encoded = {form for secret in (*long, *short) for form in _encoded_forms(secret)}
        whole = [re.escape(secret) for secret in long]
        whole += [rf"(?<!\w){re.escape(secret)}(?!\w)" for secret in short]
        self._whole = [re.compile(pattern, re.IGNORECASE) for pattern in whole]
        self._parts = {part for secret in long for part in _windows(secret, _PART_LENGTH)}
        self._folded_parts = {part.lower() for part in self._parts}
        self._words = {part.lower() for secret in long for part in _windows(secret, _WORD_LENGTH)}

    def remove(self, text: str) -> str:
        """The text with `[key]` in place of every secret and of every part of one."""
        if not self._whole:
            return text
        hidden = bytearray(len(text))
        for form in self._encoded:
            for match in re.finditer(re.escape(form), text):
                hidden[match.start() : match.end()] = b"\1" * len(match[0])
        readings: list[tuple[str, Sequence[int]]] = [(text, range(len(text) + 1))]
        while len(readings) <= _MAX_ESCAPES and _ESCAPE.search(readings[-1][0]):
            readings.append(_unescape(*readings[-1]))
        for reading, places in readings:
            for start, end in self._found(reading):
                first, last = places[start], places[end]
                hidden[first:last] = b"\1" * (last - first)
        if not any(hidden):
            return text
        shown = []
        for position, character in enumerate(text):
            if not hidden[position]:
                shown.append(character)
            elif not position or not hidden[position - 1]:
                shown.append("[key]")
        return "".join(shown)

    def _found(self, text: str) -> Iterator[tuple[int, int]]:
        """Start and end of each secret, and of each part of one, in a text."""
        for pattern in self._whole:
            yield from (match.span() for match in pattern.finditer(text))
        folded = text.translate(_TO_LOWER)
        for start in range(len(text) - _PART_LENGTH + 1 if self._folded_parts else 0):
            end = start + _PART_LENGTH
            if folded[start:end] not in self._folded_parts:
                continue
            part = text[start:end]
            if not part.isalpha() or (part in self._parts and not part.islower()):
                yield start, end
            if folded[start : start + _WORD_LENGTH] in self._words:
                yield start, start + _WORD_LENGTH


def _is_short_secret(secret: str) -> bool:
    """Whether a short text is a secret rather than a word."""
    return len(secret) >= _MIN_SHORT_SECRET and not secret.isalpha() and not secret.isdigit()


def _windows(text: str, size: int) -> Iterator[str]:
    """All parts of a text that have this length."""
    return (text[start : start + size] for start in range(len(text) - size + 1))


def _encoded_forms(secret: str) -> Iterator[str]:
    """A secret in hexadecimal digits, and as a part of any text in base64."""
    data = secret.encode()
    yield data.hex()
    yield data.hex().upper()
    for offset in range(3):  # a group of base64 has three bytes
        size = len(data) + offset
        start, end = (
            -(-offset * 8 // 6),
            size * 8 // 6,
        )  # without digits that have bits of other bytes
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield encode(b"\0" * offset + data).decode()[start:end]


def _unescape(text: str, places: Sequence[int]) -> tuple[str, Sequence[int]]:
    """A text with its escapes replaced by what they stand for, and the place of each of its characters.

    Args:
        text: the text.
        places: the place of each of its characters in the original text, and its end.
    """
    characters: list[str] = []
    starts: list[int] = []
    position = 0
    for match in _ESCAPE.finditer(text):
        characters += text[position : match.start()]
        starts += places[position : match.start()]
        digits, other, entity = match.group(1) or match.group(2), match.group(3), match.group(4)
        character = chr(int(digits, 16)) if digits else other or html.unescape(entity)
        characters.append(character if len(character) == 1 else " ")
        starts.append(places[match.start()])
        position = match.end()
    characters += text[position:]
    starts += places[position:]
    return "".join(characters), starts


def _is_harmless(value: str) -> bool:
    """Whether a value is a boolean or an existing path, and so not secret whatever the variable's name."""
    if value.lower() in ("", "true", "false"):
        return True
    try:
        return value.startswith(("/", "~", ".")) and Path(value).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False
