"""Errors of the network and of the model hub, and what to show for them.

Each library has exceptions of its own, and they are recognized by name, so that none needs to be imported.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator

from ida_tui.errors import IdaError
from ida_tui.util.text import one_line

NETWORK_LIBRARIES = frozenset(("httpcore2", "httpx2", "requests", "urllib", "urllib3"))
"""Packages whose exceptions all mean that a request failed; other libraries raise theirs from them."""
NETWORK_ERRNOS = frozenset(
    (
        errno.EADDRNOTAVAIL, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN,
        errno.ENETUNREACH, errno.ETIMEDOUT,
    )
)  # fmt: skip
UNREACHABLE_PHRASES = ("couldn't connect to", "cannot reach http")
"""Messages of transformers and huggingface_hub, which raise a plain OSError or RuntimeError."""
MAX_TEXT = 300


def explain_network_error(error: BaseException) -> IdaError | None:
    """The error to show if a request failed, or a server could not be reached; None for another cause."""
    if not any(map(_is_network_error, _causes(error))):
        return None
    text = one_line(" ".join(str(error).split()))[:MAX_TEXT].rstrip(".") or type(error).__name__
    return IdaError(
        f"a network request failed: {text}",
        "check the network connection and the address, then run the command again;\n"
        "what is already downloaded works without a network: HF_HUB_OFFLINE=1",
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and those from which it was raised."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__


def _is_network_error(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in NETWORK_ERRNOS:
        return True
    # BrokenPipeError also means that the reader of a local pipe is gone.
    if isinstance(error, ConnectionError) and not isinstance(error, BrokenPipeError):
        return True
    if isinstance(error, socket.gaierror | socket.herror | ssl.SSLError):
        return True
    if isinstance(error, OSError | RuntimeError) and any(
        phrase in str(error).lower() for phrase in UNREACHABLE_PHRASES
    ):
        return True
    return any(
        kind.__module__.partition(".")[0] in NETWORK_LIBRARIES for kind in type(error).__mro__
    )
