"""Address of a webhook in a profile: its variables, and why it cannot be used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from ida_tui.config.trust.endpoint import host_of, is_local
from ida_tui.config.trust.headers import fill_header, header_variables, is_credential
from ida_tui.errors import UsageError
from ida_tui.util.secrets import is_key

KEY = "notify.webhook"
MAX_ADDRESS = 2000
"""Longest address, in characters."""

_VARIABLE = r"\$(?:\{\w+\}|\w+)"
_SECRET_HOSTS = (
    "hooks.slack.com", "discord.com", "discordapp.com", "webhook.office.com", "logic.azure.com",
    "api.telegram.org", "chat.googleapis.com", "hooks.zapier.com", "maker.ifttt.com",
)  # fmt: skip
"""Services whose addresses are secrets: whoever knows one can post there."""
_EXPORT = "export the address, and write its variable: webhook: $NAME"


@dataclass(frozen=True, slots=True)
class WebhookAddress:
    """An address with the values of its variables. Do not display it."""

    url: str
    secrets: tuple[str, ...]
    """The values of its variables, and everything after the host if there are any."""


def webhook_variables(template: str) -> list[str]:
    """The environment variables in an address, such as `$SLACK_URL` or `https://ntfy.sh/$TOPIC`."""
    return header_variables(template)


def webhook_problem(template: str) -> tuple[str, str] | None:
    """Problem and fix of an address in a profile; None if it can be used. The text does not repeat it."""
    if re.fullmatch(_VARIABLE, template):
        return None
    beginning = re.match(r"[^/]*//[^/?#]*", template)
    if beginning is None or "$" in beginning[0]:
        return (
            f"{KEY} is not an address",
            "write https://HOST/PATH, or http://127.0.0.1:PORT/PATH, or the variable of an address: $NAME",
        )
    if problem := _address_problem(re.sub(_VARIABLE, "x", template)):
        return problem
    parts = urlsplit(re.sub(_VARIABLE, "", template))
    host = host_of(template)
    words = [*parts.path.split("/"), *(value for _, value in parse_qsl(parts.query))]
    is_service = any(host == name or host.endswith(f".{name}") for name in _SECRET_HOSTS)
    named = any(is_credential(name) and value for name, value in parse_qsl(parts.query))
    if named or any(map(is_key, words)) or (is_service and not webhook_variables(template)):
        return (
            f"{KEY} has its secret in the profile, which is written to every run directory",
            _EXPORT,
        )
    return None


def fill_webhook(template: str, environment: Mapping[str, str]) -> WebhookAddress:
    """The address to which messages are sent.

    Args:
        template: the address in the profile.
        environment: the values of variables.

    Raises:
        UsageError: the address cannot be used, or a variable has no value. The message has no secret.
    """
    if problem := webhook_problem(template):
        raise UsageError(*problem, where=KEY)
    variables = webhook_variables(template)
    for name in variables:
        if not environment.get(name, "").strip():
            raise UsageError(
                f"{KEY} needs {name}, which is not set",
                f"export {name}=..., or add {name}=... to .env",
                where=KEY,
            )
    values = {name: environment[name].strip() for name in variables}
    url = fill_header(template, values)
    if problem := _address_problem(url):
        named = f", in {' and '.join(variables)}" if variables else ""
        raise UsageError(f"{problem[0]}{named}", problem[1], where=KEY)
    if not variables:
        return WebhookAddress(url, ())
    parts = urlsplit(url)
    rest = url.partition(parts.netloc)[2]
    return WebhookAddress(url, (*values.values(), rest, rest.strip("/")))


def _address_problem(url: str) -> tuple[str, str] | None:
    """Why nothing can be sent to an address without variables, and what to do."""
    if not url.isascii() or not url.isprintable() or re.search(r"[\s\\#]", url):
        return (
            f"{KEY} has a space, a # or a letter outside of ASCII",
            "remove it, or write it as %20",
        )
    if len(url) > MAX_ADDRESS:
        return f"{KEY} is longer than {MAX_ADDRESS:,} characters", "check the address"
    host = host_of(url)
    if not host or not re.match(r"https?://", url):
        return f"{KEY} is not an address", "write https://HOST/PATH, or http://127.0.0.1:PORT/PATH"
    if "@" in urlsplit(url).netloc:
        return f"{KEY} contains a user name or a password", "remove everything up to the @"
    if url.startswith("http://") and not is_local(url):
        return (
            f"{KEY} would send its messages unencrypted",
            "write https://; http:// is only for a server on this machine",
        )
    return None
