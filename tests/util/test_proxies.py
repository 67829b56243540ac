"""Proxies of the environment: which one an address gets, and why one cannot be used."""

from __future__ import annotations

import pytest

from ida_tui.util.proxies import Proxy, find_proxy

HTTPS = "https://api.openai.com/v1"
HTTP = "http://judge.example:9000/v1"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("variables", "url", "proxy"),
    [
        ({}, HTTPS, None),
        ({"HTTPS_PROXY": "http://p:1"}, HTTPS, Proxy("http://p:1", "HTTPS_PROXY")),
        ({"HTTPS_PROXY": "p:1"}, HTTPS, Proxy("http://p:1", "HTTPS_PROXY")),
        ({"HTTPS_PROXY": "http://p:1"}, HTTP, None),
        ({"ALL_PROXY": "http://p:1"}, HTTP, Proxy("http://p:1", "ALL_PROXY")),
        (
            {"ALL_PROXY": "http://a", "http_proxy": "http://h"},
            HTTP,
            Proxy("http://h", "http_proxy"),
        ),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "openai.com"}, HTTPS, None),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "x, .example"}, HTTP, None),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "judge.example:9000"}, HTTP, None),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "*"}, HTTP, None),
        ({"ALL_PROXY": "http://p:1", "no_proxy": "10.0.0.0/8"}, "http://10.2.3.4/v1", None),
    ],
)
def test_the_proxy_of_an_address_is_the_one_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], url: str, proxy: Proxy | None
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert find_proxy(url) == proxy


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("socks5://127.0.0.1:1", "names a SOCKS proxy, but the support for SOCKS is not installed"),
        ("socks4://127.0.0.1:1", "has the scheme socks4://, which is not supported"),
        ("socks://127.0.0.1:1", "has the scheme socks://, which is not supported"),
        ("http://", "is not a URL"),
        ("http://a b", "is not a URL"),
        ("http://host:port", "is not a URL"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_named_with_its_variable(url: str, problem: str) -> None:
    found = Proxy(url, "ALL_PROXY").problem()
    assert found is not None
    assert problem in found[0]
    assert "ALL_PROXY" in found[0]
    assert "unset ALL_PROXY, or add the host to NO_PROXY" in found[1]


def test_a_proxy_is_shown_without_its_user_and_password() -> None:
    proxy = Proxy("http://me:pa55word@proxy.example:8080/", "HTTPS_PROXY")
    assert proxy.label == "proxy.example:8080 (HTTPS_PROXY)"
    assert proxy.problem() is None
