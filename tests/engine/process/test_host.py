"""The process that computes for the app: it ends with the app, also while it imports its libraries."""

from __future__ import annotations

import socket
import subprocess
import sys

from tests.support.patience import PATIENCE_S

IMPORTING = """
import threading
from ida_tui.engine.process.host import AppConnection
with AppConnection().ending_with_app():
    print("importing", flush=True)
    threading.Event().wait()
"""


def test_a_process_that_imports_its_libraries_ends_when_the_app_is_gone() -> None:
    app, engine = socket.socketpair()
    with app, engine:
        process = subprocess.Popen(
            [sys.executable, "-c", IMPORTING], stdin=engine.fileno(), stdout=subprocess.PIPE
        )
        engine.close()
        assert process.stdout is not None
        assert process.stdout.readline() == b"importing\n"
        # A message that nobody has read yet does not keep it.
        app.sendall(b"unread")
        app.close()
        try:
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()
            process.stdout.close()


def test_importing_libraries_goes_on_while_the_app_is_there() -> None:
    finishing = IMPORTING.replace("threading.Event().wait()", "pass") + "print('done')"
    app, engine = socket.socketpair()
    with app, engine:
        result = subprocess.run(
            [sys.executable, "-c", finishing],
            stdin=engine.fileno(),
            capture_output=True,
            timeout=PATIENCE_S,
        )
    assert result.stdout.split() == [b"importing", b"done"]
