"""Receivers of messages in a profile: addresses, secrets that must not stand there, and consent."""

from __future__ import annotations

from pathlib import Path

import pytest

from ida_tui.config.resolve import resolve, to_yaml
from ida_tui.config.trust import consent
from ida_tui.config.trust.consent import ConsentRequired, is_consent_key
from ida_tui.config.trust.webhook import fill_webhook, webhook_problem
from ida_tui.errors import UsageError

HOOK = "https://hook.example/runs"


def theirs(notify: str) -> str:
    """A profile by somebody else."""
    file = Path("theirs/config.yaml")
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"extends: quickstart\nnotify: {notify}\n")
    return str(file)


@pytest.mark.parametrize(
    "address",
    [
        "$HOOK",
        "${HOOK}",
        HOOK,
        "https://hook.example",
        "https://ntfy.sh/$TOPIC",
        "http://127.0.0.1:8080/hook",
        "http://[::1]:8080/hook",
        "https://discord.com/api/webhooks/${ID}/${TOKEN}?thread_id=42",
    ],
)
def test_an_address_without_a_secret_can_be_used(address: str) -> None:
    assert webhook_problem(address) is None


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("hook.example", "not an address"),
        ("ftp://hook.example/x", "not an address"),
        ("https://$HOST/x", "not an address"),
        ("https://hook.$DOMAIN/x", "not an address"),
        ("$A$B", "not an address"),
        ("http://hook.example/x", "unencrypted"),
        ("https://me:pw@hook.example/x", "a user name or a password"),
        ("https://hook.example/a b", "a space"),
        ("https://hook.example/a\r\nHost: b", "a space"),
        ("https://hook.example/" + 3000 * "a", "longer than"),
        ("https://hook.example/?token=abc", "its secret in the profile"),
        ("https://hook.example/sk-0123456789abcdef0123", "its secret in the profile"),
        ("https://hooks.slack.com/services/T00/B00/x", "its secret in the profile"),
    ],
)
def test_an_address_that_cannot_be_used_is_not_repeated(address: str, problem: str) -> None:
    found = webhook_problem(address)

    assert found is not None
    assert problem in found[0]
    assert address not in found[0] + found[1]
    with pytest.raises(UsageError, match=problem):
        resolve("quickstart", [f"notify.webhook={address!r}"])


@pytest.mark.parametrize("value", ["http://hook.example/x", "not an address", "https://a@b/c"])
def test_the_value_of_a_variable_is_checked_and_not_repeated(value: str) -> None:
    with pytest.raises(UsageError) as caught:
        fill_webhook("$HOOK", {"HOOK": value})

    assert value not in "\n".join(caught.value.lines())
    assert "HOOK" in caught.value.title


def test_the_secrets_of_an_address_are_its_variables_and_its_path() -> None:
    address = fill_webhook("$HOOK", {"HOOK": "https://hook.example/a/b?c=d"})

    assert address.url == "https://hook.example/a/b?c=d"
    assert address.secrets == ("https://hook.example/a/b?c=d", "/a/b?c=d", "a/b?c=d")


@pytest.mark.parametrize(
    ("notify", "action"),
    [
        (f"{{webhook: '{HOOK}'}}", f"sends messages about its runs to {HOOK}"),
        (
            "{webhook: 'http://127.0.0.1:1/'}",
            "sends messages about its runs to http://127.0.0.1:1/",
        ),
        (
            "{webhook: 'https://hook.example/$GITHUB_TOKEN'}",
            "with the environment variable GITHUB_TOKEN in it",
        ),
        ("{command: [sh, -c, 'rm -r x']}", "runs the command sh -c 'rm -r x'"),
    ],
)
def test_a_strangers_profile_sends_and_runs_nothing(notify: str, action: str) -> None:
    with pytest.raises(ConsentRequired) as caught:
        resolve(theirs(notify))

    text = "\n".join(caught.value.lines())
    assert action in text
    assert "config.yaml:2: notify" in text


def test_typing_the_receivers_is_consent() -> None:
    command = '["sh", "-c", "true"]'
    profile = theirs(f"{{webhook: '{HOOK}', command: [sh, -c, 'true']}}")

    with pytest.raises(ConsentRequired):
        resolve(profile, [f"notify.webhook={HOOK}"])
    assert resolve(profile, [f"notify.webhook={HOOK}", f"notify.command={command}"])
    assert is_consent_key("notify.webhook")
    assert is_consent_key("notify.command")


def test_a_change_of_one_word_asks_again() -> None:
    typed = resolve("quickstart", ["notify.command=[sh, tell.sh]", "notify.webhook=$HOOK"]).config
    consent.remember_run(typed, None)
    Path("config.yaml").write_text(to_yaml(typed))

    assert resolve("config.yaml").config.notify == typed.notify
    for change in ("{command: [sh, other.sh]}", "{webhook: $OTHER}"):
        with pytest.raises(ConsentRequired):
            resolve(theirs(change))


def test_a_profile_of_the_user_and_commands_that_send_nothing_need_no_question(
    tmp_path: Path,
) -> None:
    mine = tmp_path / "user-profiles/experiments/mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("extends: quickstart\nnotify: {webhook: $HOOK, desktop: true}\n")

    assert resolve("mine").config.notify.webhook == "$HOOK"
    assert resolve(theirs("{desktop: true}")).config.notify.desktop
    assert resolve(theirs("{webhook: $HOOK}"), uses=("judge", "code", "functions"))


def test_a_profile_without_receivers_is_written_as_before() -> None:
    assert "notify" not in to_yaml(resolve("quickstart").config)
