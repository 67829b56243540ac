"""Checks of what a profile adds to a judge's requests: fields of the body, headers and parameters."""

from __future__ import annotations

import json
from collections.abc import Iterator

from ida_tui.config.schema import JudgeSettings
from ida_tui.config.trust.headers import header_problem
from ida_tui.util.finding import Finding, error_finding
from ida_tui.util.secrets import is_key
from ida_tui.util.text import quoted

OWN_FIELDS = {
    "model": "set judge.model",
    "messages": "the rubric and the answer are the messages; change the rubric",
    "stream": "remove it; a verdict is read as a whole",
    "n": "set judge.samples",
}
"""Fields of a request that a profile cannot replace, each with what to do."""
_SECRET_FIELDS = frozenset(
    ("api_key", "apikey", "api-key", "key", "access_token", "token", "password", "secret", "sig")
)
_MAX_BODY_CHARS = 20_000


def check_request(key: str, judge: JudgeSettings) -> Iterator[Finding]:
    """Errors about what a judge's profile adds; `key` is its dotted key."""
    added = [
        name for name in ("extra_body", "extra_headers", "extra_query") if getattr(judge, name)
    ]
    if added and judge.kind != "openai":
        yield error_finding(
            f"{key}.{added[0]}",
            f"only a judge on a server has {added[0]}, but {key}.kind is {judge.kind}",
            f"remove {added[0]}",
            f"{key}.kind",
        )
        return
    for name, fix in OWN_FIELDS.items():
        if name in judge.extra_body:
            yield error_finding(
                f"{key}.extra_body.{name}", f"extra_body cannot replace the field {name}", fix
            )
    try:
        too_long = len(json.dumps(judge.extra_body, allow_nan=False)) > _MAX_BODY_CHARS
    except ValueError:
        yield error_finding(
            f"{key}.extra_body", "a number in extra_body is not finite", "JSON has no such number"
        )
    else:
        if too_long:
            yield error_finding(
                f"{key}.extra_body",
                f"extra_body has more than {_MAX_BODY_CHARS:,} characters",
                "send only what the server needs",
            )
    for section in ("extra_body", "extra_query"):
        for name, value in _leaves(getattr(judge, section)):
            if name.rpartition(".")[2].lower() in _SECRET_FIELDS or is_key(str(value)):
                yield error_finding(
                    f"{key}.{section}.{name}",
                    f"{quoted(name)} looks like a secret, which would be written to every run directory",
                    "send it in a header: judge.extra_headers={Authorization: Bearer $NAME}",
                )
    for name, text in judge.extra_headers.items():
        if problem := header_problem(name, text):
            yield error_finding(f"{key}.extra_headers.{name}", *problem)


def _leaves(value: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted name and value of everything that is not a mapping or a list."""
    items: list[tuple[object, object]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    elif prefix:
        yield prefix, value
    for name, item in items:
        yield from _leaves(item, f"{prefix}.{name}" if prefix else str(name))
