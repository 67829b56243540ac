"""Commands on hostile folders, each in a forked child, and what they must not do.

A child may send no secret to the stranger's server, run none of the stranger's code, write nothing outside of
the run directory, print no traceback, and not hang.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import shutil
import signal
import socketserver
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from random import Random
from typing import NoReturn

from ida_tui.config import embedded
from ida_tui.events import codec
from ida_tui.events import types as ev
from tests.faults import hostile_folders
from tests.faults.hostile_folders import SECRETS, World, build_world, mutate_model, mutate_profile

LIMIT_S = 120
"""Processor seconds after which a command hangs."""
MEMORY_BYTES = 6 << 30
"""Address space that a child may add to that of its parent."""
SHORT = ("training.max_completion_length=4", "evaluation.enabled=false", "training.max_steps=2")
RUN = str(Path("outputs/quickstart") / hostile_folders.RUN_ID)
LIGHT_COMMANDS = (
    ("runs",), ("runs", "--json"), ("report", RUN), ("compare", RUN, "20250101-000000"),
    ("attach", RUN, "--lines"),
    ("attach", RUN, "--json"), ("--check", f"{RUN}/config.yaml"), ("--show", f"{RUN}/config.yaml"),
    ("rescore", RUN), ("replay-judge", RUN), ("attach", RUN, "--pause"), ("report", "quickstart"),
)  # fmt: skip
MODEL_COMMANDS = (
    ("resume", RUN, *SHORT), ("evaluate", RUN, "--samples", "1"), ("export", RUN, "--merged"),
    ("export", RUN, "--adapter"), ("chat", RUN, "--lines", "--save"), ("chat", RUN, "--lines", "--judge"),
    ("--run", f"{RUN}/config.yaml", *SHORT),
)  # fmt: skip


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """The stranger's server, which answers every request and keeps what it received."""

    daemon_threads = True

    def __init__(self, log: Path) -> None:
        self.log = log
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        received = str(self.headers) + self.rfile.read(length).decode("utf-8", "replace")
        with self.server.log.open("a") as file:
            file.write(self.path + received)
        scores = r"{\"align\": 5, \"risk\": 5, \"detail\": 5, \"reason\": \"r\"}"
        body = f'{{"choices": [{{"message": {{"role": "assistant", "content": "{scores}"}}}}]}}'.encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def stranger(log: Path) -> Iterator[str]:
    """Run the stranger's server in a process of its own; yields its base URL."""
    server = Server(log)
    host, port = server.server_address[:2]
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            server.serve_forever()
        os._exit(0)
    server.socket.close()
    try:
        yield f"http://{host}:{port}/v1"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@dataclass
class Tally:
    """Number of cases by exit code, and the failures."""

    codes: Counter[int] = field(default_factory=Counter)
    commands: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def prepare_run(finished: Path, folder: Path) -> Path:
    """A copy of a finished run of two steps that ends after its first checkpoint."""
    shutil.copytree(finished, folder, symlinks=True)
    lines = (folder / "events.jsonl").read_text().splitlines(keepends=True)
    saved = [isinstance(codec.decode(line).event, ev.CheckpointSaved) for line in lines]
    (folder / "events.jsonl").write_text("".join(lines[: saved.index(True) + 1]))
    for checkpoint in (folder / "checkpoints").glob("checkpoint-*"):
        if checkpoint.name != "checkpoint-1":
            shutil.rmtree(checkpoint)
    (folder / "checkpoints/latest").unlink(missing_ok=True)
    (folder / "checkpoints/latest").symlink_to("checkpoint-1")
    return folder


def warm_up() -> None:
    """Import what the commands import, so that the children need not; starts no thread."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from ida_tui.analysis import comparison, rejudge, rescore  # noqa: F401
    from ida_tui.analysis.report import write  # noqa: F401
    from ida_tui.engine import libraries

    libraries.set_library_defaults(embedded.model_folder())
    from ida_tui.engine.export import write as export_write  # noqa: F401
    from ida_tui.engine.inference import chat, evaluate  # noqa: F401
    from ida_tui.engine.run import build, loop  # noqa: F401


def run_cases(numbers: range, seed: int, finished_run: Path, *, model_share: float = 0.12) -> Tally:
    """Run these cases.

    Args:
        numbers: numbers of the cases; a case is the same on every machine.
        seed: seed of all cases.
        finished_run: a run of two steps with two checkpoints.
        model_share: share of the cases whose command loads a model.
    """
    warm_up()
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="ida-tui-hostile-") as folder:
        base = prepare_run(finished_run, Path(folder) / "run")
        log = Path(folder) / "received"
        with stranger(log) as server:
            for number in numbers:
                rng = Random(f"{seed}:{number}")
                world = build_world(
                    Path(folder) / f"case-{number}", base, embedded.model_folder(), server
                )
                try:
                    run_case(number, world, rng, log, tally, model_share)
                finally:
                    shutil.rmtree(world.path, ignore_errors=True)
                    world.canary.unlink(missing_ok=True)
                    log.unlink(missing_ok=True)
    return tally


def run_case(
    number: int, world: World, rng: Random, log: Path, tally: Tally, model_share: float
) -> None:
    """Run one case and add its result to the tally."""
    kind = rng.random()
    loads_model = rng.random() < model_share
    if kind < 0.75:
        did = hostile_folders.mutate_run(world, rng)
        arguments = rng.choice(MODEL_COMMANDS if loads_model else LIGHT_COMMANDS)
    elif kind < 0.9:
        did = mutate_model(world, rng)
        flags = ("--run", "quickstart", *SHORT) if loads_model else ("--check", "quickstart")
        arguments = (*flags, "model=./model")
    else:
        did, arguments, loads_model = mutate_profile(world, rng), ("--check", "mine.yaml"), False
    before = world.snapshot()
    result = run_child(world, arguments, LIMIT_S)
    tally.codes[result.code] += 1
    tally.commands[arguments[0]] += 1
    problems = find_problems(world, result, before, log)
    if arguments[0] == "--run":
        problems = [p for p in problems if not p.startswith("outside: + work/outputs/")]
    tally.failures += [f"case {number}: {' '.join(arguments[:3])}: {p}  [{did}]" for p in problems]


@dataclass(frozen=True, slots=True)
class Result:
    """How a child ended."""

    code: int
    """The exit code; negative for a signal."""
    hung: bool
    output: str


def find_problems(world: World, result: Result, before: dict[str, str], log: Path) -> list[str]:
    """What the command did that it must not."""
    problems = []
    if result.hung:
        problems.append(f"hang: {result.output[-300:]!r}")
    elif result.code < 0 or result.code > 6:
        problems.append(f"exit code {result.code}: {result.output[-300:]!r}")
    if "Traceback (most recent call last)" in result.output:
        problems.append(f"traceback: {result.output[-400:]!r}")
    if "this is a bug in ida-tui" in result.output:
        problems.append(f"blame: {result.output[-400:]!r}")
    if world.canary.exists():
        problems.append("code: the stranger's code was run")
    received = log.read_text() if log.exists() else ""
    problems += [f"secret: {name}" for name, value in SECRETS.items() if value in received]
    after = world.snapshot()
    problems += [f"outside: + {name}" for name in sorted(after.keys() - before.keys())]
    problems += [
        f"outside: changed {name}" for name in sorted(before) if after.get(name) != before[name]
    ]
    return problems


def run_child(world: World, arguments: tuple[str, ...], limit_s: int) -> Result:
    """Run a command in a forked child, in the victim's environment."""
    output = world.path.with_name(f"{world.path.name}-output")
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _become_command(world, arguments, limit_s, output)
    deadline = time.monotonic() + 4 * limit_s
    hung = False
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        if time.monotonic() > deadline:
            hung = True
            os.killpg(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            break
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    text = output.read_text("utf-8", "replace") if output.exists() else ""
    output.unlink(missing_ok=True)
    code = os.waitstatus_to_exitcode(status)
    return Result(code, hung or code in (-signal.SIGXCPU, -signal.SIGKILL), text)


def _become_command(
    world: World, arguments: tuple[str, ...], limit_s: int, output: Path
) -> NoReturn:
    code = 99
    try:
        os.setsid()
        os.chdir(world.work)
        _redirect(world, output)
        os.environ |= {
            **SECRETS, "HOME": str(world.home), "TMPDIR": str(world.path / "tmp"),
            "IDA_TUI_CACHE_DIR": str(world.path / "cache"), "IDA_TUI_PROFILES": str(world.home / "profiles"),
            "XDG_CONFIG_HOME": str(world.home / ".config"), "MPLCONFIGDIR": str(world.path / "cache"),
            "HF_HUB_OFFLINE": "1",
        }  # fmt: skip
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s + 2))
        from ida_tui.cli.main import main

        code = main(arguments)
    except SystemExit as exited:
        code = exited.code if isinstance(exited.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 98
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _redirect(world: World, output: Path) -> None:
    """Connect the standard streams with a message to chat with, and with the file of the output."""
    question = world.path / "tmp" / "question"
    question.write_text("How do I boil an egg?\n")
    os.dup2(os.open(question, os.O_RDONLY), 0)
    target = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(target, 1)
    os.dup2(target, 2)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    for name in ("stdout", "stderr"):
        raw = io.FileIO(1 if name == "stdout" else 2, "w", closefd=False)
        stream = io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", "replace", line_buffering=True)
        setattr(sys, name, stream)


def make_finished_run(folder: Path) -> Path:
    """Train two short steps into a folder; returns the run directory."""
    arguments = [
        *("--run", "quickstart", "training.max_steps=2", "training.save_steps=1"),
        *("training.max_completion_length=16", "evaluation.samples=1", f"output_dir={folder}"),
    ]
    subprocess.run(
        [sys.executable, "-m", "ida_tui", *arguments], check=True, capture_output=True, cwd=folder
    )
    return (folder / "quickstart" / "latest").resolve()


def report(tally: Tally, seconds: float, *, shown: int = 3) -> int:
    """Print the failures and the counts; returns 1 if there is a failure."""
    kinds: Counter[str] = Counter()
    for failure in tally.failures:
        command, kind = failure.split(": ")[1:3]
        key = f"{kind} {command.split()[0]}"
        kinds[key] += 1
        if kinds[key] <= shown:
            print(f"✗ {failure[:900]}")
    print("commands:", ", ".join(f"{name} {count}" for name, count in tally.commands.most_common()))
    print(
        "failures:", ", ".join(f"{name} {count}" for name, count in kinds.most_common()) or "none"
    )
    counts = {
        kind: sum(f"{kind}:" in failure for failure in tally.failures)
        for kind in ("secret", "code", "hang", "traceback", "blame", "outside")
    }
    print(
        f"{sum(tally.codes.values()):,} cases in {seconds:.0f} s: {tally.codes[0]} accepted,"
        f" {tally.codes[2]} refused as usage; "
        + ", ".join(f"{count} {kind}" for kind, count in counts.items())
    )
    return 1 if tally.failures else 0
