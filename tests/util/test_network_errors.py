"""Errors of the network: which exceptions mean that a request failed."""

from __future__ import annotations

import socket
import ssl
import urllib.error

import httpx2
import pytest
import requests
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from ida_tui.util.network_errors import explain_network_error

RESPONSE = httpx2.Response(500, request=httpx2.Request("GET", "https://hub"))


def raised_from(cause: Exception) -> Exception:
    """An error of a library, raised from that of the library below it."""
    try:
        raise RuntimeError("Cannot load the file") from cause
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        httpx2.ConnectError("[Errno -2] Name or service not known"),
        httpx2.ReadTimeout("the read timed out"),
        HfHubHTTPError("500 Server Error", response=RESPONSE),
        OfflineModeIsEnabled("offline mode is enabled"),
        requests.ConnectionError("no route"),
        urllib.error.URLError("unknown host"),
        ConnectionRefusedError(111, "Connection refused"),
        OSError(101, "Network is unreachable"),
        socket.gaierror(-3, "Temporary failure in name resolution"),
        ssl.SSLError(1, "certificate verify failed"),
        OSError("We couldn't connect to 'https://huggingface.co' to load the files"),
        raised_from(httpx2.ConnectTimeout("timed out")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_failed_request_is_explained_in_one_line(error: Exception) -> None:
    explained = explain_network_error(error)
    assert explained is not None
    assert explained.title.startswith("a network request failed: ")
    assert "\n" not in explained.title
    assert "check the network connection" in explained.hint


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(2, "No such file or directory"),
        OSError(28, "No space left on device"),
        BrokenPipeError(32, "Broken pipe"),
        RuntimeError("a defect"),
        raised_from(ValueError("a defect")),
    ],
    ids=["missing file", "full disk", "closed pipe", "defect", "caused by a defect"],
)
def test_another_error_is_not_one_of_the_network(error: Exception) -> None:
    assert explain_network_error(error) is None
