"""Messages about a run: one for each cause, retried, on threads of their own, and without secrets."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ida_tui.config.resolve import resolve
from ida_tui.config.sections.notify import NotifyConfig, NotifyEvent
from ida_tui.errors import UsageError
from ida_tui.events import types as ev
from ida_tui.events.notifications.channels import (
    Channel,
    Command,
    DeliveryError,
    Desktop,
    open_channels,
)
from ida_tui.events.notifications.messages import MAX_TEXT, Message, MessageWriter
from ida_tui.events.notifications.notifier import RETRY_DELAYS_S, Notifier
from tests.conftest import IdaTui
from tests.support.patience import PATIENCE_S
from tests.support.scripted_session import run_ended

ALERT = ev.AlertRaised(4, "entropy", "it fell", "raise beta")
ROLLOUT = ev.RolloutStarted(5, 4, ("a",), ("harmless",), ("Hello",))
ALL_EVENTS: tuple[NotifyEvent, ...] = ("alert", "pause", "end")


class Server(ThreadingHTTPServer):
    """A webhook on loopback: answers with the given statuses, then with 200.

    Args:
        statuses: statuses of the first answers; 0 answers nothing until the server closes.
    """

    daemon_threads = True

    def __init__(self, statuses: Sequence[int] = ()) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.statuses = list(statuses)
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.closing = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        self.server.paths.append(self.path)
        self.server.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        if not status:
            self.server.closing.wait()
            return
        self.send_response(status)
        self.send_header("location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


def texts(*events: ev.Event, attended: bool = False, pauses: bool = True) -> list[str]:
    """The texts of the messages of these events, without the run."""
    writer = MessageWriter("quickstart", "run-1", "R_IDA", pauses, lambda: attended)
    records = (ev.Record(n, ev.current_timestamp(), event) for n, event in enumerate(events))
    return [
        message.text.removeprefix("quickstart/run-1: ")
        for record in records
        for message in writer.messages(record)
    ]


def send(
    channels: Sequence[Channel],
    *events: ev.Event,
    folder: Path,
    before_end: Callable[[], object] = lambda: None,
    limit_s: float = PATIENCE_S,
) -> tuple[list[float], list[str]]:
    """Deliver the messages of these events; returns the delays before further tries, and the warnings."""
    delays: list[float] = []
    notices: list[ev.Noticed] = []
    notifier = Notifier(
        channels,
        ALL_EVENTS,
        MessageWriter("quickstart", "run-1", "R_IDA"),
        notices.append,
        undelivered=folder / "notify.txt",
        redact=lambda text: text.replace("a-secret-path", "[key]"),
        wait=lambda _, seconds: delays.append(seconds),
    )
    for number, event in enumerate(events):
        notifier.put(ev.Record(number, ev.current_timestamp(), event))
    before_end()
    notifier.close(limit_s)
    return delays, [notice.text for notice in notices]


def webhook(server: Server, path: str = "/hook") -> Channel:
    channels, _ = open_channels(NotifyConfig(webhook=server.url + path))
    return channels[0]


def test_an_alert_is_told_with_its_advice() -> None:
    assert texts(ALERT, pauses=False) == ["an alert at step 4 (entropy): it fell\nraise beta"]


def test_an_alert_that_pauses_the_run_is_one_message() -> None:
    pause = ev.RunPaused(4, "an alert (entropy): it fell", "raise beta\nresume anyway", by="alert")

    assert texts(ALERT, pause) == ["paused after step 4: an alert (entropy): it fell\nraise beta"]


def test_an_alert_that_stops_the_run_is_one_message() -> None:
    ended = run_ended("stopped_by_alert", "stopped by an alert (entropy) at step 4: it fell")

    assert texts(ALERT, ended) == ["stopped by an alert (entropy) at step 4: it fell\n1 s"]


def test_an_alert_after_which_the_run_goes_on_or_is_done_is_told() -> None:
    alert = "an alert at step 4 (entropy): it fell\nraise beta"

    assert texts(ALERT, ROLLOUT) == [alert]
    assert texts(ALERT, run_ended("done", "Training complete")) == [alert, "Training complete\n1 s"]


def test_a_judge_that_fails_is_one_message() -> None:
    failed = (ev.RunPaused(2, "no judge"), run_ended("judge_unavailable", "no judge", code=3))

    assert texts(*failed) == ["no judge\n1 s"]
    assert texts(failed[0], attended=True) == ["paused after step 2: no judge"]


def test_a_disk_that_fails_again_and_again_is_one_message() -> None:
    full, resumed = ev.RunPaused(2, "the disk is full", by="disk"), ev.RunResumed(2)

    assert texts(full, resumed, full, resumed) == ["paused after step 2: the disk is full"]


def test_a_text_is_short_and_has_no_control_characters() -> None:
    text = texts(ev.RunPaused(2, "\x1b[2J" + 9000 * "x"), attended=True)[0]

    assert "\x1b" not in text
    assert len(text) < MAX_TEXT


def test_each_cause_reaches_a_webhook_once_after_retries(tmp_path: Path) -> None:
    with Server([503, 429]) as server:
        ended = run_ended("done", "Training complete")
        delays, warnings = send([webhook(server)], ALERT, ended, folder=tmp_path)

        assert delays == list(RETRY_DELAYS_S[:2])
        ids = [body["id"] for body in server.bodies]
    assert ids == [f"quickstart/run-1/{name}" for name in (*["0-alert"] * 3, "1-end")]
    assert server.bodies[-1]["content"] == server.bodies[-1]["text"]
    assert server.bodies[-1]["status"] == "done"
    assert not warnings
    assert not (tmp_path / "notify.txt").exists()


@pytest.mark.parametrize(("status", "reason"), [(302, "redirects to another"), (404, "HTTP 404")])
def test_a_refused_message_is_not_retried_and_listed(
    status: int, reason: str, tmp_path: Path
) -> None:
    with Server([status, status]) as server:
        delays, warnings = send([webhook(server)], ALERT, ALERT, folder=tmp_path)

        assert not delays
        assert server.paths == ["/hook", "/hook"]
    assert len(warnings) == 1
    assert reason in warnings[0]
    assert (tmp_path / "notify.txt").read_text().count(reason) == 2


def test_a_server_that_never_answers_delays_neither_the_run_nor_other_channels(
    tmp_path: Path,
) -> None:
    told = threading.Event()

    class Other:
        name = "other"

        def send(self, message: Message) -> None:
            told.set()

    with Server([0]) as server:
        _, warnings = send(
            [webhook(server), Other()],
            ALERT,
            folder=tmp_path,
            before_end=lambda: told.wait(PATIENCE_S),
            limit_s=0,
        )
        assert told.is_set()
    assert not warnings
    assert "webhook alert: the run had ended" in (tmp_path / "notify.txt").read_text()


def test_an_unreachable_server_is_one_warning_without_the_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server() as closed:
        url = closed.url
    monkeypatch.setenv("HOOK", f"{url}/a-secret-path")
    channels, secrets = open_channels(NotifyConfig(webhook="$HOOK"))

    delays, warnings = send(channels, ALERT, ALERT, folder=tmp_path)

    assert delays == [*RETRY_DELAYS_S] * 2
    assert len(warnings) == 1
    assert "a-secret-path" not in warnings[0] + (tmp_path / "notify.txt").read_text()
    assert "a-secret-path" in secrets


def test_a_variable_is_read_from_dotenv(server: Server) -> None:
    Path(".env").write_text("TOPIC=my-runs\n")
    webhook(server, "/$TOPIC").send(message())

    assert server.paths == ["/my-runs"]


def message() -> Message:
    return Message("end", "quickstart: done", "--all done", 3, "id", {"run": "run-1"})


def test_a_command_gets_the_message_and_no_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789abcdefghij")
    file = tmp_path / "told.json"
    code = (
        "import json, os, sys; told = json.load(sys.stdin);"
        " told |= {'variable': os.environ['IDA_TUI_TEXT'], 'key': os.environ.get('HF_TOKEN')};"
        " json.dump(told, open(sys.argv[1], 'w'))"
    )

    Command([sys.executable, "-c", code, str(file)]).send(message())

    told = json.loads(file.read_text())
    assert (told["text"], told["variable"], told["key"]) == ("--all done", "--all done", None)


def test_a_command_that_fails_says_why() -> None:
    with pytest.raises(DeliveryError, match="it ended with code 7: no network") as caught:
        Command(["sh", "-c", "echo 'no network' >&2; exit 7"]).send(message())
    assert caught.value.may_retry


def test_the_desktop_gets_title_and_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / ("osascript" if sys.platform == "darwin" else "notify-send")
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/shown\n')
    program.chmod(0o700)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")

    Desktop().send(message())

    shown = (tmp_path / "shown").read_text().splitlines()
    assert shown[-2:] == ["ida-tui · quickstart: done", "--all done"]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"webhook": "$UNSET_HOOK"}, "UNSET_HOOK, which is not set"),
        ({"webhook": "http://example.org/hook"}, "unencrypted"),
        ({"command": ["no-such-program"]}, "no-such-program is not installed"),
    ],
)
def test_a_receiver_that_cannot_be_used_is_refused_before_the_run(
    settings: dict[str, Any], problem: str
) -> None:
    with pytest.raises(UsageError, match=problem):
        open_channels(NotifyConfig(**settings))


def test_a_run_tells_its_alerts_and_its_end(
    ida_tui: IdaTui, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_PATH", "a-secret-path")
    server.statuses = [500]

    result = ida_tui(
        "--run",
        "quickstart",
        "training.max_steps=2",
        "evaluation.enabled=false",
        "alerts.window=2",
        "alerts.length_r=0.001",
        "alerts.on_alert=pause",
        f"notify.webhook={server.url}/$HOOK_PATH",
    )

    assert result.code == 0
    causes = dict.fromkeys((body["event"], body["id"]) for body in server.bodies)
    assert [event for event, _ in causes] == ["alert", "end"]
    assert len(server.bodies) == 3  # the first try was refused
    assert set(server.paths) == {"/a-secret-path"}
    run = next(Path("outputs/quickstart").glob("2*"))
    files = [file for file in run.rglob("*") if file.is_file()]
    assert not [file for file in files if b"a-secret-path" in file.read_bytes()]
    assert resolve(str(run / "config.yaml"), verify=False).config.notify.webhook == (
        f"{server.url}/$HOOK_PATH"
    )
