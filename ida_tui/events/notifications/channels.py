"""Channels of messages about a run: a webhook, the desktop of this machine, and a command."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from dotenv import dotenv_values

from ida_tui.config.sections.notify import NotifyConfig
from ida_tui.config.trust.endpoint import is_local
from ida_tui.config.trust.webhook import WebhookAddress, fill_webhook, webhook_variables
from ida_tui.errors import UsageError, short_text
from ida_tui.events.notifications.messages import Message
from ida_tui.util.proxies import find_proxy
from ida_tui.util.secrets import environment_without_secrets
from ida_tui.util.text import as_json, one_line

REQUEST_TIMEOUT_S = 10.0
"""Longest time for one request, from the connection to the status of the reply."""
COMMAND_TIMEOUT_S = 30.0
"""Longest time of a command; after it the command and what it started are killed."""
RETRIED_STATUS = (408, 425, 429)
"""HTTP statuses below 500 that say that a later request may be accepted."""
_MAX_ERROR_BYTES = 300
_APPLESCRIPT = """\
on run arguments
display notification (item 2 of arguments) with title (item 1 of arguments)
end run"""


class DeliveryError(Exception):
    """A message was not delivered.

    Args:
        reason: why, as a clause without secrets.
        may_retry: whether another try may succeed.
    """

    def __init__(self, reason: str, *, may_retry: bool) -> None:
        super().__init__(reason)
        self.may_retry = may_retry


class Channel(Protocol):
    """A receiver of messages; called on a thread of its own."""

    name: str
    """Its key in `notify`."""

    def send(self, message: Message) -> None:
        """Deliver a message once.

        Raises:
            DeliveryError: it was not delivered.
        """


class Webhook:
    """A server that gets each message as a JSON object by POST. No redirect is followed."""

    name = "webhook"

    def __init__(self, address: WebhookAddress) -> None:
        self._address = address

    def send(self, message: Message) -> None:
        """Send the message; the body of the reply is not read."""
        try:
            status = asyncio.run(asyncio.wait_for(self._post(message), REQUEST_TIMEOUT_S))
        except TimeoutError:
            reason = f"no reply within {REQUEST_TIMEOUT_S:.0f} s"
            raise DeliveryError(reason, may_retry=True) from None
        if 200 <= status < 300:
            return
        if 300 <= status < 400:
            reason = (
                f"the server redirects to another address (HTTP {status}), which gets no message"
            )
            raise DeliveryError(reason, may_retry=False)
        may_retry = status >= 500 or status in RETRIED_STATUS
        raise DeliveryError(f"the server answered with HTTP {status}", may_retry=may_retry)

    async def _post(self, message: Message) -> int:
        import httpx2

        url = self._address.url
        proxy = None if is_local(url) else find_proxy(url)
        body = as_json(message.as_json()).encode("utf-8", "replace")
        headers = {"content-type": "application/json", "user-agent": "ida-tui"}
        headers["idempotency-key"] = message.id.encode("ascii", "replace").decode()
        try:
            transport = httpx2.AsyncHTTPTransport(
                proxy=proxy.url if proxy else None, trust_env=not is_local(url), retries=0
            )
            async with (
                httpx2.AsyncClient(transport=transport, timeout=REQUEST_TIMEOUT_S) as client,
                client.stream("POST", url, content=body, headers=headers) as response,
            ):
                return int(response.status_code)
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError, RuntimeError) as error:
            text = one_line(short_text(error)) or type(error).__name__
            raise DeliveryError(f"the request failed: {text}", may_retry=True) from None


class Command:
    """A program that gets each message as JSON on its standard input, without the secrets of this process."""

    name = "command"

    def __init__(self, words: Sequence[str]) -> None:
        self._words = list(words)

    def send(self, message: Message) -> None:
        """Run the program and wait for its end."""
        variables = {"IDA_TUI_EVENT": message.event, "IDA_TUI_TEXT": message.text}
        line = as_json(message.as_json()) + "\n"
        _run(self._words, line, environment_without_secrets() | variables)


class Desktop:
    """Notifications of this machine's desktop."""

    name = "desktop"

    def send(self, message: Message) -> None:
        """Show the message."""
        title = f"ida-tui · {message.title}"
        if sys.platform == "darwin":
            words = ["osascript", "-e", _APPLESCRIPT, title, message.text]
        else:
            text = message.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            words = ["notify-send", "--app-name=ida-tui", "--", title, text]
        if shutil.which(words[0]) is None:
            raise DeliveryError(f"{words[0]} is not installed", may_retry=False)
        _run(words, "", dict(os.environ))


def open_channels(config: NotifyConfig) -> tuple[list[Channel], tuple[str, ...]]:
    """The receivers that a profile names, and the secrets in their addresses.

    Raises:
        UsageError: the address or the command cannot be used. Nothing was sent.
    """
    channels: list[Channel] = []
    secrets: tuple[str, ...] = ()
    if not config.events:
        return channels, secrets
    if config.webhook is not None:
        address = fill_webhook(config.webhook, _variables(webhook_variables(config.webhook)))
        proxy = None if is_local(address.url) else find_proxy(address.url)
        if proxy is not None and (problem := proxy.problem()):
            raise UsageError(*problem, where="notify.webhook")
        channels.append(Webhook(address))
        secrets = address.secrets
    if config.desktop:
        channels.append(Desktop())
    if config.command:
        program = config.command[0]
        if shutil.which(program) is None:
            raise UsageError(
                f"the program {one_line(program)} is not installed, or is not executable",
                "write notify.command as [PROGRAM, ARGUMENT, ...], or remove it",
                where="notify.command",
            )
        channels.append(Command(config.command))
    return channels, secrets


def _variables(names: Sequence[str]) -> Mapping[str, str]:
    """The values of variables in the environment, or else in `.env` in the working directory."""
    file = Path.cwd() / ".env"
    try:
        stored = dotenv_values(file, interpolate=False) if file.is_file() else {}
    except (OSError, UnicodeDecodeError):
        stored = {}
    return {name: os.environ.get(name) or stored.get(name) or "" for name in names}


def _run(words: Sequence[str], text: str, environment: Mapping[str, str]) -> None:
    """Run a program to its end.

    Raises:
        DeliveryError: it could not be started, took too long, or failed.
    """
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                list(words),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env=dict(environment),
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            reason = f"it could not be started: {short_text(error)}"
            raise DeliveryError(reason, may_retry=False) from None
        try:
            # A program that does not read its input has not failed.
            with contextlib.suppress(BrokenPipeError):
                process.communicate(text.encode("utf-8", "replace"), timeout=COMMAND_TIMEOUT_S)
            process.wait(COMMAND_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            reason = f"it took longer than {COMMAND_TIMEOUT_S:.0f} s and was killed"
            raise DeliveryError(reason, may_retry=False) from None
        if process.returncode:
            errors.seek(0)
            lines = errors.read(_MAX_ERROR_BYTES).decode("utf-8", "replace").split()
            said = f": {one_line(' '.join(lines))}" if lines else ""
            raise DeliveryError(f"it ended with code {process.returncode}{said}", may_retry=True)
