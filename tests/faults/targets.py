"""Targets of hostile input: each function runs one case and returns True if the input was accepted.

A case raises an exception for any defect: an exception that is not a typed error of the program, a character
that a terminal interprets, or an invented score.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import yaml

from ida_tui.cli.main import main
from ida_tui.cli.output.follow import follow_run
from ida_tui.cli.output.printer import HumanPrinter, JsonPrinter
from ida_tui.config.resolve import resolve, to_yaml
from ida_tui.config.schema import JudgeConfig
from ida_tui.config.scoring.axes import IDA_AXES, IDA_AXIS_NAMES
from ida_tui.errors import IdaError, UsageError
from ida_tui.events import codec, narration
from ida_tui.events import types as ev
from ida_tui.events.state import RunState, fold
from ida_tui.judge.backends.openai.parse import ParsedScores, parse_verdict
from ida_tui.judge.backends.openai.transport import ServerReply, Transport
from ida_tui.judge.cache.store import FILE_NAME, VerdictCache
from ida_tui.judge.errors import classify_response, parse_retry_after
from ida_tui.judge.verdict import Verdict
from ida_tui.rewards.formulas import IDA_FORMULAS
from ida_tui.runs import control, owner, postmortem, resume
from ida_tui.runs.catalog.index import list_runs
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.reader import Follower
from ida_tui.runs.log.replay import Replay
from ida_tui.runs.store import checkpoints, manifest
from ida_tui.runs.store.completions import CompletionStore, remove_completions_after
from tests.faults import hostile, hostile_data, reward_results, sample_events


class Defect(Exception):
    """The program printed or returned something that it must not."""


NOW = datetime(2026, 1, 31, tzinfo=UTC)


@contextlib.contextmanager
def checked_output() -> Iterator[None]:
    """Capture the output of the block as UTF-8; a character that a terminal interprets is a defect."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="\n", write_through=True)
    err = io.TextIOWrapper(
        io.BytesIO(), encoding="utf-8", newline="\n", write_through=True, errors="backslashreplace"
    )
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield
    for stream in (out, err):
        check_printable(stream.buffer.getvalue().decode())


def check_printable(text: str) -> None:
    """Raise `Defect` if a text has a character that a terminal interprets."""
    if match := _INTERPRETED.search(text):
        context = text[max(0, match.start() - 40) : match.start() + 40]
        raise Defect(f"{match[0]!r} is printed: {context!r}")


# Control characters except the newline, line separators, surrogates, and marks of text direction.
_INTERPRETED = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


# --- profiles -----------------------------------------------------------------------------------


def profile(rng: Random) -> bool:
    """Show, check or list a profile of any kind."""
    kind, data = _profile(rng)
    choice = rng.random()
    folder = Path("mine") / kind if choice < 0.7 else Path(os.environ["IDA_TUI_PROFILES"]) / kind
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "mine.yaml"
    file.write_bytes(data)
    name = str(file) if choice < 0.7 else "mine"
    section = {"models": "model", "judges": "judge", "rubrics": "rubric", "prompts": "prompts"}
    arguments: list[str] = (
        [name] if kind == "experiments" else ["quickstart", f"{section[kind]}={name}"]
    )
    try:
        with checked_output():
            kinds = ("--check", "--check", "--show") if choice < 0.95 else ("--list",)
            flag = rng.choice(kinds)
            code = main([flag, kind] if flag == "--list" else [flag, *arguments])
        if code not in (0, 2):
            raise Defect(f"exit code {code}")
        if code == 0 and flag == "--check":
            _check_resolves_to_itself(arguments)
    finally:
        file.unlink()
    return code == 0


def _profile(rng: Random) -> tuple[str, bytes]:
    kind, data = rng.choice(hostile.profiles())
    choice = rng.random()
    if choice < 0.03:
        return kind, rng.choice(hostile.BOMBS).encode("utf-8", "surrogatepass")
    if choice < 0.35:
        return kind, hostile.mutate_bytes(data, rng)
    tree = _parse_cached(data)
    if choice < 0.4:
        return kind, _dump(hostile.value(rng), rng)
    if kind == "experiments" and choice < 0.7:
        tree = {"extends": "quickstart", **_sample_keys(_keys(), rng)}
    if "prompts" in tree and isinstance(tree["prompts"], list):
        tree = {**tree, "prompts": tree["prompts"][:4]}
    for _ in range(rng.randint(1, 2)):
        tree = hostile.mutate_tree(tree, rng)
    return kind, _dump(tree, rng)


def _parse_cached(data: bytes) -> Any:
    if data not in _PARSED:
        _PARSED[data] = yaml.safe_load(data)
    return _PARSED[data]


_PARSED: dict[bytes, Any] = {}


def _keys() -> dict[str, Any]:
    """Every key of an experiment with its value in quickstart."""
    if not _KEYS:
        _KEYS.update(resolve("quickstart").config.model_dump())
        _KEYS["prompts"] = {**_KEYS["prompts"], "prompts": _KEYS["prompts"]["prompts"][:6]}
    return _KEYS


_KEYS: dict[str, Any] = {}


def _sample_keys(tree: dict[str, Any], rng: Random) -> dict[str, Any]:
    keys = rng.sample(list(tree), k=min(len(tree), 3))
    return {key: tree[key] for key in keys}


def _dump(tree: Any, rng: Random) -> bytes:
    """A tree as YAML or JSON, which is also YAML and preserves every escape."""
    if rng.random() < 0.7:
        with contextlib.suppress(RecursionError, ValueError):
            return json.dumps(tree, default=str, ensure_ascii=rng.random() < 0.7).encode(
                "utf-8", "surrogatepass"
            )
    with contextlib.suppress(RecursionError, ValueError, yaml.YAMLError):
        return yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")
    return b"a: b\n"


def _check_resolves_to_itself(arguments: list[str]) -> None:
    """Check that the config.yaml of an accepted experiment resolves to the same configuration."""
    config = resolve(arguments[0], arguments[1:]).config
    file = Path("again.yaml")
    file.write_text(to_yaml(config), encoding="utf-8")
    if resolve(str(file)).config != config:
        raise Defect("its config.yaml resolves to something else")


def override(rng: Random) -> bool:
    """Run a command line with any key, value and name."""
    values = _keys()
    path: list[str] = []
    while isinstance(values, dict) and values:
        path.append(rng.choice(list(values)))
        values = values[path[-1]]
    key = ".".join(path) if rng.random() < 0.85 else hostile.text(rng)
    value = hostile.value(rng) if rng.random() < 0.7 else hostile.text(rng)
    if not isinstance(value, str):
        with contextlib.suppress(RecursionError, ValueError):
            value = json.dumps(value)
    name = "quickstart" if rng.random() < 0.9 else hostile.text(rng)
    arguments = [rng.choice(("--check", "--show")), name, f"{key}={value}"]
    if rng.random() < 0.03:
        arguments[0] = hostile.text(rng)
    if arguments[0] not in ("--check", "--show") or name.startswith("-"):
        arguments.insert(0, "--check")
    with checked_output():
        try:
            code = main(arguments)
        except SystemExit as exit_request:  # --help, --version
            code = int(exit_request.code or 0)
    if code not in (0, 2):
        raise Defect(f"exit code {code}")
    return code == 0


# --- events -------------------------------------------------------------------------------------


def event(rng: Random) -> bool:
    """Decode, fold, print and re-encode one event line."""
    line = hostile.event_line(rng)
    try:
        record = codec.decode(line.decode("utf-8"))
    except (codec.EventError, UnicodeDecodeError) as error:
        str(error)
        return False
    check_printable(codec.encode(record))
    if codec.decode(codec.encode(record)) != record:
        raise Defect("the event changes when it is written and read back")
    state = fold(_state_in_mid_run(), record)
    _print_everything(state, record)
    return True


def _state_in_mid_run() -> RunState:
    """The state in the middle of a real run."""
    if not _STATE:
        state = RunState()
        for raw in hostile.events()[:300]:
            state = fold(state, codec.decode(raw.decode()))
        _STATE.append(state)
    return _STATE[0]


_STATE: list[RunState] = []


def _print_everything(state: RunState, record: ev.Record) -> None:
    """Produce every text about a state, from both printers and the screens."""
    with checked_output():
        human, json_printer = HumanPrinter(), JsonPrinter()
        human.print_record(state, record)
        json_printer.print_record(state, record)
        human.print_message(postmortem.likely_cause(state))
        human.close()
    narration.progress_line(state, NOW)
    narration.summary_lines(state, state.ended) if state.ended else None
    plan = state.run.memory_plan if state.run else ()
    narration.memory_table(plan, None, narration.measured_memory(state))


def run_of_lines(rng: Random) -> bool:
    """List, replay, follow and attach to a run with a hostile ``events.jsonl``."""
    run = Path("outputs/quickstart/20260101-000000")
    shutil.rmtree("outputs", ignore_errors=True)
    run.mkdir(parents=True)
    lines = list(hostile.events())
    start = rng.randrange(max(1, len(lines) - 60))
    chosen = lines[:2] + lines[start : start + rng.randint(1, 60)]
    for _ in range(rng.randint(0, 3)):
        chosen.insert(rng.randrange(len(chosen) + 1), _valid_line(rng))
    if rng.random() < 0.3:
        chosen.insert(rng.randrange(len(chosen) + 1), hostile.event_line(rng))
    data = b"\n".join(chosen) + b"\n"
    if rng.random() < 0.2:
        data = hostile.mutate_bytes(data, rng)
    (run / "events.jsonl").write_bytes(data)
    accepted = True
    try:
        replay = Replay.open(run / "events.jsonl")
        for step in replay.steps[:3]:
            replay.state_at(step)
        resume.find_resume_point(RunDirectory(run))
    except (codec.EventError, UsageError):
        accepted = False
    for summary in list_runs(Path("outputs")):
        str(summary)
    with checked_output():
        main(["runs"])
        main(["runs", "--json"])
    with checked_output(), contextlib.suppress(IdaError):
        follow_run(RunDirectory(run), as_json=rng.random() < 0.5)
    follower = Follower(run / "events.jsonl")
    with contextlib.suppress(codec.EventError):
        while follower.read(7):
            pass
    return accepted


def _valid_line(rng: Random) -> bytes:
    """A mutated line that is still a valid event."""
    for _ in range(40):
        line = hostile.event_line(rng).replace(b"\n", b"")
        with contextlib.suppress(codec.EventError, UnicodeDecodeError):
            codec.decode(line.decode())
            return line
    return hostile.events()[0]


def completions(rng: Random) -> bool:
    """Index, load, search and truncate a hostile ``completions.jsonl``."""
    path = Path("completions.jsonl")
    body = {k: v for e in hostile.sample_events_as_json() for k, v in e.items()
            if e["type"] in ("CompletionFinished", "CompletionScored")}  # fmt: skip
    for name in ("v", "seq", "time", "type"):
        del body[name]
    body = {"step": 1, **body}
    lines = []
    for number in range(rng.randint(1, 4)):
        row: Any = body | {"index": number}
        if rng.random() < 0.7:
            field = rng.choice(list(row))
            row = row | {field: hostile.similar_value(row[field], rng)}
        line = json.dumps(row, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
        lines.append(hostile.mutate_bytes(line, rng) if rng.random() < 0.3 else line)
    path.write_bytes(b"\n".join(lines) + b"\n")
    store = CompletionStore(path)
    store.refresh()
    count = 0
    run = replace(sample_events.RUN, axes=rng.choice((IDA_AXES, IDA_AXES[:1], ())))
    from ida_tui.tui.screens.completions.rows import finished_step_rows, sort_rows, verdict_lines

    for step in store.steps:
        samples = finished_step_rows(store.load(step), rng.choice((None, run)))
        count += len(samples)
        for order in ("group", "reward", "advantage"):
            sort_rows(samples, order, reverse=False)  # type: ignore[arg-type]
        for sample in samples:
            verdict_lines(sample)
    store.search(["kill"], 0, 1)
    remove_completions_after(path, 1)
    return count > 0


# --- judges -------------------------------------------------------------------------------------

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
        if intact and shape < 4 and scores != tuple(axes):
            raise Defect(f"{axes} became {scores}")
    elif intact and shape in (0, 1) and len(text) <= 8000 and all(map(_allowed, axes)):
        raise Defect(f"{axes} was refused: {parsed.text}")
    return isinstance(parsed, ParsedScores)


def _score(rng: Random) -> Any:
    if rng.random() < 0.7:
        return rng.choice((0, 3, 7.5, 10, 10.0, 9.999, 0.5))
    return rng.choice((*hostile.NUMBERS, True, None, "7", [7], {"score": 7}))


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


_TRANSPORTS: list[Transport] = []


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
    if not _TRANSPORTS:
        _TRANSPORTS.append(
            Transport(JudgeConfig(kind="openai", model="m", base_url="http://127.0.0.1:1/v1"), None)
        )
    reply = _TRANSPORTS[0]._parse_response(body)
    header = {rng.choice(("retry-after", "retry-after-ms")): hostile.text(rng)}
    if rng.random() < 0.5:
        header = {"retry-after": str(rng.choice(hostile.NUMBERS))[:80]}
    wait = parse_retry_after(header)
    if wait is not None and not (math.isfinite(wait) and wait >= 0):
        raise Defect(f"it would wait {wait} s")
    fault = classify_response(rng.choice((400, 401, 404, 422, 429, 500, 503)), body, header,
                              ("temperature", "response_format"), "sk-secret")  # fmt: skip
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


# --- the small files of a run -------------------------------------------------------------------

_SMALL: dict[str, Any] = {
    "owner.json": {"pid": 1, "started": 1.0, "host": "here"},
    "control.json": {"ask": "pause", "pid": 1},
    "manifest.json": {"run_id": "x", "resumed": []},
    "checkpoints/checkpoint-2/checkpoint.json": {
        "version": 1, "step": 2, "reward": 0.5, "run_id": "x",
        "files": {name: {"bytes": 1, "sha256": "x"} for name in
                  (*checkpoints.REQUIRED_FILES, "adapter_model.safetensors")},
    },
}  # fmt: skip


def small_file(rng: Random) -> bool:
    """Read a hostile owner.json, control.json, manifest.json or checkpoint.json, or a path without a file."""
    directory = RunDirectory(Path("run"))
    shutil.rmtree("run", ignore_errors=True)
    name = rng.choice(list(_SMALL))
    path = Path("run") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith("checkpoint.json"):
        for needed in _SMALL[name]["files"]:
            (path.parent / needed).write_bytes(b"x")
    choice = rng.random()
    if choice < 0.03:
        os.mkfifo(path)
    elif choice < 0.06:
        path.mkdir()
    elif choice < 0.09:
        path.symlink_to(
            rng.choice(("/dev/zero", "nowhere", name.rpartition("/")[2], "/etc/passwd"))
        )
    else:
        tree = hostile.mutate_tree(_SMALL[name], rng)
        data = b"[" * 100_000 if choice < 0.1 else b"{}"
        with contextlib.suppress(RecursionError, ValueError):
            data = json.dumps(tree).encode() if choice >= 0.1 else data
        path.write_bytes(hostile.mutate_bytes(data, rng) if choice > 0.7 else data)
    if name == "owner.json":
        owner.owner_pid(directory)
        return owner.is_alive(directory)
    if name == "control.json":
        return control.pop_request(directory) is not None
    if name == "manifest.json":
        with contextlib.suppress(OSError):
            manifest.record_resume(path, resumed_at="now", argv=[])
        return True
    checkpoint = checkpoints.verify_checkpoint(path.parent)
    if isinstance(checkpoint, checkpoints.BrokenCheckpoint):
        str(checkpoint.reason)
    newest, _ = resume.newest_valid_checkpoint(directory, ("x",))
    checkpoints._rotate(directory.checkpoints, 1)
    return newest is not None


TARGETS: dict[str, tuple[Callable[[Random], bool], float]] = {
    "profiles": (profile, 0.14),
    "command lines": (override, 0.06),
    "event lines": (event, 0.28),
    "runs": (run_of_lines, 0.02),
    "completions": (completions, 0.05),
    "judge answers": (answer, 0.20),
    "judge exchanges": (exchange, 0.10),
    "verdict caches": (cache, 0.01),
    "small files": (small_file, 0.04),
    "reward results": (reward_results.reward_result, 0.1),
    "data files": (lambda rng: hostile_data.data_file(rng, check_printable), 0.10),
}
"""Function and share of all cases for each kind of input."""
