"""What hostile input is given to, each as one case: it returns whether the input was accepted.

A case raises where something came out that must not: any exception but the program's own typed ones, a
character that a terminal would act on, a score that was made up.
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
from ida_tui.errors import IdaError, UsageError
from ida_tui.events import codec, narration
from ida_tui.events import types as ev
from ida_tui.events.state import RunState, fold
from ida_tui.judge.backends.openai.parse import ParsedScores, parse_verdict
from ida_tui.judge.backends.openai.transport import ServerReply, Transport
from ida_tui.judge.cache.store import FILE_NAME, VerdictCache
from ida_tui.judge.errors import classify_response, parse_retry_after
from ida_tui.judge.verdict import Verdict
from ida_tui.runs import control, owner, postmortem, resume
from ida_tui.runs.catalog.index import list_runs
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.reader import Follower
from ida_tui.runs.log.replay import Replay
from ida_tui.runs.store import checkpoints, manifest
from ida_tui.runs.store.completions import CompletionStore, remove_completions_after
from tests.faults import hostile


class Defect(Exception):
    """Something came out that must not."""


NOW = datetime(2026, 1, 31, tzinfo=UTC)


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """Inside the block what is printed is collected, as UTF-8; a character that acts is a defect."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="\n", write_through=True)
    err = io.TextIOWrapper(
        io.BytesIO(), encoding="utf-8", newline="\n", write_through=True, errors="backslashreplace"
    )
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield
    for stream in (out, err):
        plain(stream.buffer.getvalue().decode())


def plain(text: str) -> None:
    """Raise where a text has a character that a terminal acts on."""
    if found := _ACTS.search(text):
        around = text[max(0, found.start() - 40) : found.start() + 40]
        raise Defect(f"{found[0]!r} comes out: {around!r}")


# Controls but the newline, what splits lines, surrogates, and what turns the direction of text.
_ACTS = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


# --- profiles -----------------------------------------------------------------------------------


def profile(chance: Random) -> bool:
    """A profile of any kind: resolved, shown, checked, listed."""
    kind, data = _profile(chance)
    how = chance.random()
    folder = Path("mine") / kind if how < 0.7 else Path(os.environ["IDA_TUI_PROFILES"]) / kind
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "mine.yaml"
    file.write_bytes(data)
    name = str(file) if how < 0.7 else "mine"
    section = {"models": "model", "judges": "judge", "rubrics": "rubric", "prompts": "prompts"}
    words: list[str] = (
        [name] if kind == "experiments" else ["quickstart", f"{section[kind]}={name}"]
    )
    try:
        with heard():
            kinds = ("--check", "--check", "--show") if how < 0.95 else ("--list",)
            flag = chance.choice(kinds)
            code = main([flag, kind] if flag == "--list" else [flag, *words])
        if code not in (0, 2):
            raise Defect(f"exit code {code}")
        if code == 0 and flag == "--check":
            _runs_again_as_it_is(words)
    finally:
        file.unlink()
    return code == 0


def _profile(chance: Random) -> tuple[str, bytes]:
    kind, data = chance.choice(hostile.profiles())
    how = chance.random()
    if how < 0.03:
        return kind, chance.choice(hostile.BOMBS).encode("utf-8", "surrogatepass")
    if how < 0.35:
        return kind, hostile.mutated(data, chance)
    tree = _parsed(data)
    if how < 0.4:
        return kind, _dumped(hostile.value(chance), chance)
    if kind == "experiments" and how < 0.7:
        tree = {"extends": "quickstart", **_some(_keys(), chance)}
    if "prompts" in tree and isinstance(tree["prompts"], list):
        tree = {**tree, "prompts": tree["prompts"][:4]}
    for _ in range(chance.randint(1, 2)):
        tree = hostile.in_a_tree(tree, chance)
    return kind, _dumped(tree, chance)


def _parsed(data: bytes) -> Any:
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


def _some(tree: dict[str, Any], chance: Random) -> dict[str, Any]:
    kept = chance.sample(list(tree), k=min(len(tree), 3))
    return {key: tree[key] for key in kept}


def _dumped(tree: Any, chance: Random) -> bytes:
    """A tree as YAML; JSON is YAML too, and keeps every escape."""
    if chance.random() < 0.7:
        with contextlib.suppress(RecursionError, ValueError):
            return json.dumps(tree, default=str, ensure_ascii=chance.random() < 0.7).encode(
                "utf-8", "surrogatepass"
            )
    with contextlib.suppress(RecursionError, ValueError, yaml.YAMLError):
        return yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")
    return b"a: b\n"


def _runs_again_as_it_is(words: list[str]) -> None:
    """What was accepted is written into the run's directory, and has to be the same read back."""
    config = resolve(words[0], words[1:]).config
    again = Path("again.yaml")
    again.write_text(to_yaml(config), encoding="utf-8")
    if resolve(str(again)).config != config:
        raise Defect("its config.yaml resolves to something else")


def override(chance: Random) -> bool:
    """A command line: any key, any value, any name."""
    values = _keys()
    path: list[str] = []
    while isinstance(values, dict) and values:
        path.append(chance.choice(list(values)))
        values = values[path[-1]]
    key = ".".join(path) if chance.random() < 0.85 else hostile.text(chance)
    typed = hostile.value(chance) if chance.random() < 0.7 else hostile.text(chance)
    if not isinstance(typed, str):
        with contextlib.suppress(RecursionError, ValueError):
            typed = json.dumps(typed)
    name = "quickstart" if chance.random() < 0.9 else hostile.text(chance)
    words = [chance.choice(("--check", "--show")), name, f"{key}={typed}"]
    if chance.random() < 0.03:
        words[0] = hostile.text(chance)
    if words[0] not in ("--check", "--show") or name.startswith("-"):
        words.insert(0, "--check")
    with heard():
        try:
            code = main(words)
        except SystemExit as leaving:  # --help, --version
            code = int(leaving.code or 0)
    if code not in (0, 2):
        raise Defect(f"exit code {code}")
    return code == 0


# --- events -------------------------------------------------------------------------------------


def event(chance: Random) -> bool:
    """One line: decoded, folded, told, and written again as it was."""
    raw = hostile.event_line(chance)
    try:
        record = codec.decode(raw.decode("utf-8"))
    except (codec.EventError, UnicodeDecodeError) as error:
        str(error)
        return False
    plain(codec.encode(record))
    if codec.decode(codec.encode(record)) != record:
        raise Defect("it is not read back as it was written")
    state = fold(_halfway(), record)
    _told(state, record)
    return True


def _halfway() -> RunState:
    """The state in the middle of a real run."""
    if not _STATE:
        state = RunState()
        for raw in hostile.events()[:300]:
            state = fold(state, codec.decode(raw.decode()))
        _STATE.append(state)
    return _STATE[0]


_STATE: list[RunState] = []


def _told(state: RunState, record: ev.Record) -> None:
    """Every word about a state, as both printers and the screens say it."""
    with heard():
        human, data = HumanPrinter(), JsonPrinter()
        human.print_record(state, record)
        data.print_record(state, record)
        human.print_message(postmortem.likely_cause(state))
        human.close()
    narration.progress_line(state, NOW)
    narration.summary_lines(state, state.ended) if state.ended else None
    plan = state.run.plan if state.run else ()
    narration.memory_table(plan, None, narration.measured_memory(state))


def run_of_lines(chance: Random) -> bool:
    """A whole ``events.jsonl``: listed, replayed, looked back in, followed, attached to."""
    run = Path("outputs/quickstart/20260101-000000")
    shutil.rmtree("outputs", ignore_errors=True)
    run.mkdir(parents=True)
    lines = list(hostile.events())
    start = chance.randrange(max(1, len(lines) - 60))
    chosen = lines[:2] + lines[start : start + chance.randint(1, 60)]
    for _ in range(chance.randint(0, 3)):
        chosen.insert(chance.randrange(len(chosen) + 1), _accepted(chance))
    if chance.random() < 0.3:
        chosen.insert(chance.randrange(len(chosen) + 1), hostile.event_line(chance))
    data = b"\n".join(chosen) + b"\n"
    if chance.random() < 0.2:
        data = hostile.mutated(data, chance)
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
    with heard():
        main(["runs"])
        main(["runs", "--json"])
    with heard(), contextlib.suppress(IdaError):
        follow_run(RunDirectory(run), as_json=chance.random() < 0.5)
    follower = Follower(run / "events.jsonl")
    with contextlib.suppress(codec.EventError):
        while follower.read(7):
            pass
    return accepted


def _accepted(chance: Random) -> bytes:
    """A mutated line that still is an event."""
    for _ in range(40):
        raw = hostile.event_line(chance).replace(b"\n", b"")
        with contextlib.suppress(codec.EventError, UnicodeDecodeError):
            codec.decode(raw.decode())
            return raw
    return hostile.events()[0]


def completions(chance: Random) -> bool:
    """A ``completions.jsonl``: indexed, loaded, searched, cut."""
    path = Path("completions.jsonl")
    body = {k: v for e in hostile.some_of_each() for k, v in e.items()
            if e["type"] in ("CompletionFinished", "CompletionScored")}  # fmt: skip
    for name in ("v", "seq", "time", "type"):
        del body[name]
    body = {"step": 1, **body}
    lines = []
    for number in range(chance.randint(1, 4)):
        row: Any = body | {"index": number}
        if chance.random() < 0.7:
            field = chance.choice(list(row))
            row = row | {field: hostile._near(row[field], chance)}
        line = json.dumps(row, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")
        lines.append(hostile.mutated(line, chance) if chance.random() < 0.3 else line)
    path.write_bytes(b"\n".join(lines) + b"\n")
    store = CompletionStore(path)
    store.refresh()
    found = 0
    from ida_tui.tui.screens.completions.rows import finished_step_rows, sort_rows, verdict_lines

    for step in store.steps:
        samples = finished_step_rows(store.load(step))
        found += len(samples)
        for order in ("group", "reward", "advantage"):
            sort_rows(samples, order, reverse=False)  # type: ignore[arg-type]
        for sample in samples:
            verdict_lines(sample)
    store.search(["kill"], 0, 1)
    remove_completions_after(path, 1)
    return found > 0


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


def answer(chance: Random) -> bool:
    """A judge's reply: scores that it gave, or a failure; never anything in between."""
    axes = [_score(chance) for _ in range(3)]
    shape = chance.randrange(len(_SHAPES))
    given = [json.dumps(a) for a in axes]
    text = _SHAPES[shape].format(*given, json.dumps(hostile.text(chance)))
    whole = chance.random() < 0.6
    if not whole:
        text = hostile.mutated(text.encode(), chance).decode("utf-8", "replace")
    found = parse_verdict(text)
    if isinstance(found, ParsedScores):
        told = (found.align, found.risk, found.detail)
        if not all(isinstance(x, float) and 0 <= x <= 10 for x in told):
            raise Defect(f"scores out of range: {told}")
        verdict = Verdict.scored(*told, found.reason, "judge")
        if verdict.r_ida is None or not 0 <= verdict.r_ida <= 1:
            raise Defect(f"R_IDA is {verdict.r_ida}")
        plain(found.reason)
        if whole and shape < 4 and told != tuple(axes):
            raise Defect(f"{axes} became {told}")
    elif whole and shape in (0, 1) and len(text) <= 8000 and all(map(_allowed, axes)):
        raise Defect(f"{axes} was refused: {found.text}")
    return isinstance(found, ParsedScores)


def _score(chance: Random) -> Any:
    if chance.random() < 0.7:
        return chance.choice((0, 3, 7.5, 10, 10.0, 9.999, 0.5))
    return chance.choice((*hostile.NUMBERS, True, None, "7", [7], {"score": 7}))


def _allowed(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 <= value <= 10  # NaN is not


_REPLY = {
    "id": "x", "object": "chat.completion", "model": "m", "system_fingerprint": "fp",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant",
                 "content": '{"align": 7, "risk": 9, "detail": 6, "reason": "good"}', "refusal": None}}],
    "usage": {"prompt_tokens": 400, "completion_tokens": 30},
    "error": {"message": "no", "code": "rate_limit", "param": "temperature"},
}  # fmt: skip


_WIRE: list[Transport] = []


def exchange(chance: Random) -> bool:
    """What a server sends back: the whole HTTP body, its status and its headers."""
    tree = _REPLY
    for _ in range(chance.randint(1, 3)):
        tree = hostile.in_a_tree(tree, chance)
    with contextlib.suppress(RecursionError, ValueError):
        body = json.dumps(tree, ensure_ascii=chance.random() < 0.7)
    if chance.random() < 0.3:
        body = hostile.mutated(body.encode("utf-8", "surrogatepass"), chance).decode(
            "utf-8", "replace"
        )
    if not _WIRE:
        _WIRE.append(
            Transport(JudgeConfig(kind="openai", model="m", base_url="http://127.0.0.1:1/v1"), None)
        )
    reply = _WIRE[0]._parse_response(body)
    header = {chance.choice(("retry-after", "retry-after-ms")): hostile.text(chance)}
    if chance.random() < 0.5:
        header = {"retry-after": str(chance.choice(hostile.NUMBERS))[:80]}
    wait = parse_retry_after(header)
    if wait is not None and not (math.isfinite(wait) and wait >= 0):
        raise Defect(f"it would wait {wait} s")
    fault = classify_response(chance.choice((400, 401, 404, 422, 429, 500, 503)), body, header,
                              ("temperature", "response_format"), "sk-secret")  # fmt: skip
    plain(fault.text)
    if not isinstance(reply, ServerReply):
        plain(reply.text)
        return False
    parse_verdict(reply.text)
    return True


def cache(chance: Random) -> bool:
    """A file of kept verdicts that somebody else has written, or that is damaged."""
    folder = Path("cache")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    said: list[str] = []
    if chance.random() < 0.5:
        VerdictCache(folder, said.append).close()
        with contextlib.closing(sqlite3.connect(folder / FILE_NAME)) as file, file:
            row = [
                "key",
                "judge",
                5.0,
                5.0,
                5.0,
                "why",
                "raw",
                1,
                1,
                "m",
                "fp",
                "2026-01-01T00:00:00",
            ]
            for _ in range(chance.randint(1, 3)):
                cell = hostile.value(chance)
                bad = isinstance(cell, list | dict) or (
                    isinstance(cell, int) and abs(cell) >= 2**63
                )
                sane = b"\xff\xfe" if bad or cell is None else cell
                with contextlib.suppress(UnicodeEncodeError):
                    row[chance.randrange(1, 12)] = (
                        sane.encode().decode() if isinstance(sane, str) else sane
                    )
            with contextlib.suppress(sqlite3.Error):
                file.execute(f"INSERT INTO verdicts_v2 VALUES ({', '.join('?' * 12)})", row)
            ends = [
                chance.choice((0, 9, -1, "x", b"\xff", 2**40)),
                chance.choice((None, "x", b"\xff")),
            ]
            file.execute("INSERT INTO endpoints_v1 VALUES ('e', ?, ?, 'a b', 'm', '2999')", ends)
    else:
        size = chance.choice((0, 10, 100, 5000))
        (folder / FILE_NAME).write_bytes(
            b"SQLite format 3\0" * chance.randint(0, 1) + chance.randbytes(size)
        )
    kept = VerdictCache(folder, said.append)
    verdict = kept.get("key", "judge")
    kept.load_capabilities("e")
    kept.load_served_model("e")
    kept.close()
    with heard():
        for words in (["cache"], ["cache", "export", "-"]):
            main(words)
    return verdict is not None


# --- the small files of a run -------------------------------------------------------------------

_SMALL: dict[str, Any] = {
    "owner.json": {"pid": 1, "started": 1.0, "host": "here"},
    "control.json": {"ask": "pause", "pid": 1},
    "manifest.json": {"run_id": "x", "resumed": []},
    "checkpoints/checkpoint-2/checkpoint.json": {
        "version": 1, "step": 2, "r_ida": 0.5, "run_id": "x",
        "files": {name: {"bytes": 1, "sha256": "x"} for name in
                  (*checkpoints.REQUIRED_FILES, "adapter_model.safetensors")},
    },
}  # fmt: skip


def small_file(chance: Random) -> bool:
    """owner.json, control.json, manifest.json or a checkpoint's seal; or something that is no file."""
    directory = RunDirectory(Path("run"))
    shutil.rmtree("run", ignore_errors=True)
    name = chance.choice(list(_SMALL))
    path = Path("run") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith("checkpoint.json"):
        for needed in _SMALL[name]["files"]:
            (path.parent / needed).write_bytes(b"x")
    how = chance.random()
    if how < 0.03:
        os.mkfifo(path)
    elif how < 0.06:
        path.mkdir()
    elif how < 0.09:
        path.symlink_to(
            chance.choice(("/dev/zero", "nowhere", name.rpartition("/")[2], "/etc/passwd"))
        )
    else:
        tree = hostile.in_a_tree(_SMALL[name], chance)
        data = b"[" * 100_000 if how < 0.1 else b"{}"
        with contextlib.suppress(RecursionError, ValueError):
            data = json.dumps(tree).encode() if how >= 0.1 else data
        path.write_bytes(hostile.mutated(data, chance) if how > 0.7 else data)
    if name == "owner.json":
        owner.owner_pid(directory)
        return owner.is_alive(directory)
    if name == "control.json":
        return control.pop_request(directory) is not None
    if name == "manifest.json":
        with contextlib.suppress(OSError):
            manifest.record_resume(path, resumed_at="now", argv=[])
        return True
    found = checkpoints.verify_checkpoint(path.parent)
    if isinstance(found, checkpoints.BrokenCheckpoint):
        str(found.reason)
    whole, _ = resume.newest_valid_checkpoint(directory, "x")
    checkpoints._rotate(directory.checkpoints, 1)
    return whole is not None


TARGETS: dict[str, tuple[Callable[[Random], bool], float]] = {
    "profiles": (profile, 0.14),
    "command lines": (override, 0.06),
    "event lines": (event, 0.38),
    "runs": (run_of_lines, 0.02),
    "completions": (completions, 0.05),
    "judge answers": (answer, 0.20),
    "judge exchanges": (exchange, 0.10),
    "verdict caches": (cache, 0.01),
    "small files": (small_file, 0.04),
}
"""Each kind of input, and its share of all cases."""
