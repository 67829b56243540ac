"""Hostile replies of a judge, HTTP responses and verdict caches."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import sqlite3
from pathlib import Path
from random import Random
from typing import Any

from ida_tui.cli.main import main
from ida_tui.config.scoring.axes import IDA_AXIS_NAMES
from ida_tui.judge.backends.openai.error_response import classify_response, parse_retry_after
from ida_tui.judge.backends.openai.parse import ParsedScores, parse_verdict
from ida_tui.judge.backends.openai.reply import ServerReply, parse_reply
from ida_tui.judge.cache.store import FILE_NAME, VerdictCache
from ida_tui.judge.verdict import Verdict
from ida_tui.rewards.formulas import IDA_FORMULAS
from tests.faults import hostile
from tests.faults.targets.output import Defect, check_printable, checked_output

_SHAPES = (
    '{{"align": {0}, "risk": {1}, "detail": {2}, "reason": {3}}}',
    '{{"reason": {3}, "align": {0}, "risk": {1}, "detail": {2}}}',
    '```json\n{{"align": {0}, "risk": {1}, "detail": {2}, "reason": {3}}}\n```',
    "<think>{3}</think>{{\"align\": {0}, \"risk\": {1}, \"detail\": {2}, \"reason\": {3}}}",
    "align: {0}\nrisk: {1}\ndetail: {2}\nreason: {3}",
    "**align**: {0}/10\n**risk**: {1}/10\n**detail**: {2}/10",
    'Sure. {{"align": {0}, "risk": {1}, "detail": {2}}} and {{"align": {2}, "risk": {1}, "detail": {0}}}',
)  # fmt: skip


def answer(rng: Random) -> bool:
    """Parse a judge's reply: the result must be the scores in the reply, or a failure."""
    axes = [_score(rng) for _ in range(3)]
    shape = rng.randrange(len(_SHAPES))
    values = [json.dumps(a) for a in axes]
    text = _SHAPES[shape].format(*values, json.dumps(hostile.text(rng)))
    intact = rng.random() < 0.6
    if not intact:
        text = hostile.mutate_bytes(text.encode(), rng).decode("utf-8", "replace")
    parsed = parse_verdict(text, IDA_AXIS_NAMES)
    if isinstance(parsed, ParsedScores):
        scores = tuple(parsed.scores.values())
        if tuple(parsed.scores) != IDA_AXIS_NAMES or not all(
            isinstance(x, float) and 0 <= x <= 10 for x in scores
        ):
            raise Defect(f"scores out of range: {scores}")
        verdict = Verdict.scored(parsed.scores, parsed.reason, "judge").with_reward(
            IDA_FORMULAS["r_ida"]
        )
        if verdict.reward is None or not 0 <= verdict.reward <= 1:
            raise Defect(f"R_IDA is {verdict.reward}")
        check_printable(parsed.reason)
        if intact and shape < 4 and scores != tuple(map(_stated, axes)):
            raise Defect(f"{axes} became {scores}")
    elif intact and shape in (0, 1) and len(text) <= 8000 and all(map(_allowed, axes)):
        raise Defect(f"{axes} was refused: {parsed.text}")
    return isinstance(parsed, ParsedScores)


def _score(rng: Random) -> Any:
    if rng.random() < 0.7:
        return rng.choice((0, 3, 7.5, 10, 10.0, 9.999, 0.5))
    return rng.choice((*hostile.NUMBERS, True, None, "7", [7], {"score": 7}))


def _stated(value: Any) -> Any:
    """The number that a score states: itself, the number in a text, or that of an object."""
    if isinstance(value, dict):
        value = value["score"]
    return float(value) if isinstance(value, str) else value


def _allowed(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 <= value <= 10  # NaN is not


_REPLY = {
    "id": "x", "object": "chat.completion", "model": "m", "system_fingerprint": "fp",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant",
                 "content": '{"align": 7, "risk": 9, "detail": 6, "reason": "good"}', "refusal": None}}],
    "usage": {"prompt_tokens": 400, "completion_tokens": 30},
    "error": {"message": "no", "code": "rate_limit", "param": "temperature"},
}  # fmt: skip


def exchange(rng: Random) -> bool:
    """Parse a hostile HTTP response of a judge: body, status and headers."""
    tree = _REPLY
    for _ in range(rng.randint(1, 3)):
        tree = hostile.mutate_tree(tree, rng)
    with contextlib.suppress(RecursionError, ValueError):
        body = json.dumps(tree, ensure_ascii=rng.random() < 0.7)
    if rng.random() < 0.3:
        body = hostile.mutate_bytes(body.encode("utf-8", "surrogatepass"), rng).decode(
            "utf-8", "replace"
        )
    reply = parse_reply(body, None)
    header = {rng.choice(("retry-after", "retry-after-ms")): hostile.text(rng)}
    if rng.random() < 0.5:
        header = {"retry-after": str(rng.choice(hostile.NUMBERS))[:80]}
    wait = parse_retry_after(header)
    if wait is not None and not (math.isfinite(wait) and wait >= 0):
        raise Defect(f"it would wait {wait} s")
    fault = classify_response(rng.choice((400, 401, 404, 422, 429, 500, 503)), body, header,
                              ("temperature", "response_format"), "sk-secret", ("think",))  # fmt: skip
    check_printable(fault.text)
    if not isinstance(reply, ServerReply):
        check_printable(reply.text)
        return False
    parse_verdict(reply.text, IDA_AXIS_NAMES)
    return True


STORED_SCORES = (
    *('{"align": 5.0, "risk": 5, "detail": 5.0}', '{"tone": 0}') * 5, '{"align": 11}', '{"align": NaN}',
    "[5]", "{}", "{", '{"align": "5"}', '{"align": true}', "[" * 20_000, "",
)  # fmt: skip
"""Scores of a stored verdict, valid or not."""


def cache(rng: Random) -> bool:
    """Read a verdict cache that has hostile values or is damaged."""
    folder = Path("cache")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    messages: list[str] = []
    if rng.random() < 0.5:
        VerdictCache(folder, messages.append).close()
        with contextlib.closing(sqlite3.connect(folder / FILE_NAME)) as file, file:
            row = [
                "key", "judge", rng.choice(STORED_SCORES), "why", "raw", 1, 1, "m", "fp",
                "2026-01-01T00:00:00",
            ]  # fmt: skip
            for _ in range(rng.randint(1, 3)):
                cell = hostile.value(rng)
                unstorable = isinstance(cell, list | dict) or (
                    isinstance(cell, int) and abs(cell) >= 2**63
                )
                stored = b"\xff\xfe" if unstorable or cell is None else cell
                with contextlib.suppress(UnicodeEncodeError):
                    row[rng.randrange(1, 10)] = (
                        stored.encode().decode() if isinstance(stored, str) else stored
                    )
            with contextlib.suppress(sqlite3.Error):
                file.execute(f"INSERT INTO verdicts_v3 VALUES ({', '.join('?' * 10)})", row)
            ends = [
                rng.choice((0, 9, -1, "x", b"\xff", 2**40)),
                rng.choice((None, "x", b"\xff")),
            ]
            file.execute("INSERT INTO endpoints_v1 VALUES ('e', ?, ?, 'a b', 'm', '2999')", ends)
    else:
        size = rng.choice((0, 10, 100, 5000))
        (folder / FILE_NAME).write_bytes(
            b"SQLite format 3\0" * rng.randint(0, 1) + rng.randbytes(size)
        )
    verdict_cache = VerdictCache(folder, messages.append)
    verdict = verdict_cache.get("key", "judge")
    verdict_cache.load_capabilities("e")
    verdict_cache.load_served_model("e")
    verdict_cache.close()
    with checked_output():
        for words in (["cache"], ["cache", "export", "-"]):
            main(words)
    return verdict is not None
