"""Output of commands whose reader leaves, stalls, or cannot be written: no run ends or waits for it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ida_tui.cli.output.streams import BackgroundStream
from tests.conftest import REPOSITORY
from tests.support.patience import PATIENCE_S

RUN = """
import os, sys
from pathlib import Path
from ida_tui.cli import main, train
from ida_tui.cli.output import streams
from tests.support.scripted_session import ScriptedSession
from tests.support.synthetic_run import run_events

steps, ended = int(os.environ["STEPS"]), int(os.environ["ENDED"])
streams.STALL_LIMIT_S = float(os.environ["STALL_LIMIT_S"])

def script(log, stop):
    for event in run_events(Path("run"), steps):
        log.emit(event)
    if ended:
        os.close(ended)

train.Session = lambda config, **_: ScriptedSession(Path("run"), script)
sys.argv = ["ida-tui", "--run", "quickstart", *sys.argv[1:]]
main.entry()
"""
"""`ida-tui --run quickstart` with synthetic steps; it closes the pipe `ENDED` after its last event."""
COMMAND = (sys.executable, "-c", RUN)
LONG_STEPS = 120
"""Steps whose events fill a pipe and are more than a stream holds in memory."""
needs_dev_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


def environment(
    steps: int = 3, ended: int = 0, stall_limit_s: float = PATIENCE_S
) -> dict[str, str]:
    values = {"STEPS": steps, "ENDED": ended, "STALL_LIMIT_S": stall_limit_s}
    return os.environ | {"PYTHONPATH": str(REPOSITORY)} | {k: str(v) for k, v in values.items()}


def shell(command: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command of a shell in which `"$@"` are the words."""
    return subprocess.run(
        ["bash", "-c", command, "bash", *words],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )


def events_on_disk() -> str:
    return Path("run/events.jsonl").read_text(encoding="utf-8")


def run_is_done() -> bool:
    last = json.loads(events_on_disk().splitlines()[-1])
    return (last["type"], last["status"]) == ("RunEnded", "done")


# --- runs ---


@pytest.mark.parametrize("flags", [(), ("--json",)], ids=["lines", "json"])
def test_a_run_whose_reader_leaves_is_trained_to_its_end(flags: tuple[str, ...]) -> None:
    process = subprocess.Popen(
        [*COMMAND, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(LONG_STEPS),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    lines = process.stderr.read().decode().splitlines()

    assert process.wait() == 0
    assert run_is_done()
    assert [line for line in lines if not line.startswith("✓ Config loaded")] == [
        "! stdout was closed by its reader; the command continues without it"
    ]


@pytest.mark.parametrize(
    ("redirection", "said"),
    [
        pytest.param(
            ">/dev/full",
            "! stdout cannot be written (No space left on device); the command continues without it\n",
            marks=needs_dev_full,
        ),
        pytest.param(">/dev/full 2>&1", "", marks=needs_dev_full),
        ("<&- >&- 2>&-", ""),
        ("2>&1 | head -n 1 >&2; exit ${PIPESTATUS[0]}", "✓ Config loaded"),
    ],
)
def test_a_run_whose_output_cannot_be_written_is_trained_to_its_end(
    redirection: str, said: str
) -> None:
    result = shell(f'"$@" {redirection}', *COMMAND)

    assert result.returncode == 0
    assert result.stderr.startswith(said)
    assert len(result.stderr.splitlines()) == (1 if said else 0)
    assert run_is_done()


def test_a_reader_that_stalls_until_the_run_has_ended_misses_no_event() -> None:
    has_ended, ended = os.pipe()
    process = subprocess.Popen(
        [*COMMAND, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(LONG_STEPS, ended),
        pass_fds=[ended],
    )
    os.close(ended)
    assert os.read(has_ended, 1) == b""
    os.close(has_ended)
    assert run_is_done()
    out, _ = process.communicate()

    assert process.returncode == 0
    assert out.decode() == events_on_disk()


def test_a_run_whose_reader_never_reads_ends_and_says_what_is_missing() -> None:
    process = subprocess.Popen(
        [*COMMAND, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(LONG_STEPS, stall_limit_s=0.2),
    )
    assert process.stderr is not None

    last = process.stderr.read().decode().splitlines()[-1]

    assert process.wait() == 0
    assert last == "! nothing read stdout for 0 s: the rest of the output is not printed"
    assert run_is_done()


def test_a_terminal_that_accepts_no_output_delays_no_run() -> None:
    master, terminal = os.openpty()
    with subprocess.Popen(
        COMMAND, stdout=terminal, stderr=terminal, env=environment(LONG_STEPS, stall_limit_s=0.2)
    ) as process:
        os.close(terminal)

    assert process.returncode == 0
    assert run_is_done()
    os.close(master)


def test_a_pipe_that_does_not_block_receives_every_event() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with subprocess.Popen(
        [*COMMAND, "--json"],
        stdout=writer,
        stderr=subprocess.DEVNULL,
        env=environment(LONG_STEPS),
    ) as process:
        os.close(writer)
        with open(reader, encoding="utf-8") as file:
            out = file.read()

    assert process.returncode == 0
    assert out == events_on_disk()


def test_a_real_run_piped_to_head_is_trained_and_prints_no_other_noise() -> None:
    result = shell(
        '"$@" | head -n 1; exit ${PIPESTATUS[0]}',
        *(sys.executable, "-m", "ida_tui", "--run", "quickstart"),
        *("training.max_steps=2", "evaluation.enabled=false", "report=false"),
    )

    assert result.returncode == 0
    assert result.stdout == "✓ Config loaded (quickstart: model embedded, judge offline)\n"
    assert result.stderr == "! stdout was closed by its reader; the command continues without it\n"
    assert Path("outputs/quickstart/latest/adapter/adapter_model.safetensors").is_file()


# --- other commands ---


@pytest.mark.parametrize("words", [("--list",), ("--help",), ("judge", "check", "offline")])
@needs_dev_full
def test_a_command_whose_output_does_not_fit_fails_with_one_line(words: tuple[str, ...]) -> None:
    result = shell('"$@" >/dev/full', sys.executable, "-m", "ida_tui", *words)

    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        "error: could not write the output: No space left on device"
    )
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("words", [("--list",), ("completions", "zsh")])
def test_a_command_whose_reader_has_left_ends_without_a_word(words: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(
        [sys.executable, "-m", "ida_tui", *words],
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)

    assert (result.returncode, result.stderr) == (0, b"")


def test_an_error_keeps_its_exit_code_without_stderr() -> None:
    assert shell('"$@" 2>&-', sys.executable, "-m", "ida_tui", "compare", "none").returncode == 2


# --- the stream ---


def test_a_background_stream_writes_in_order_and_takes_texts_one_by_one() -> None:
    target = io.StringIO()
    stream = BackgroundStream(target)

    print("first", file=stream)
    stream.write_each(f"{number}\n" for number in range(3))
    print("last", file=stream)

    assert stream.finish(stall_limit_s=PATIENCE_S)
    assert target.getvalue() == "first\n0\n1\n2\nlast\n"


def test_a_character_that_the_terminal_cannot_show_is_replaced() -> None:
    result = shell('PYTHONIOENCODING=ascii "$@"', *COMMAND)

    assert result.returncode == 0
    assert result.stdout.startswith("? Config loaded")
