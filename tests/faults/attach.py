"""A detached run watched from two terminals and a browser; prints what each of them shows.

    python -m tests.faults.attach                       # a minute; needs tmux and Chromium
    python -m tests.faults.attach --picture seen.png    # also saves a screenshot of the paused run

The run is started in a terminal that is then closed. It is paused from one terminal, which the other viewers
must show, then stopped, and attached to again. A second trainer and a forged origin must be refused. The exit
code is 1 if any of this fails.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp

from ida_tui.runs import owner
from ida_tui.runs.directory import RunDirectory
from tests.support import chromium
from tests.support.patience import PATIENCE_S

RUN = (
    "quickstart", "training.max_steps=500", "evaluation.enabled=false",
    "training.num_generations=4", "training.per_device_train_batch_size=8",
)  # fmt: skip
APP = (sys.executable, "-m", "ida_tui")


class Tmux:
    """Terminals of a private tmux server."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _tmux(self, *arguments: str) -> str:
        done = subprocess.run(
            ["tmux", "-S", str(self._folder / "tmux"), "-f", "/dev/null", *arguments],
            capture_output=True, text=True, check=False, cwd=self._folder,
        )  # fmt: skip
        return done.stdout

    def open(self, name: str, size: tuple[int, int], *command: str) -> None:
        """Open a terminal that runs a command, or a shell without a command."""
        columns, rows = map(str, size)
        self._tmux("new-session", "-d", "-s", name, "-x", columns, "-y", rows, *command)

    def type(self, name: str, *keys: str) -> None:
        """Press keys."""
        self._tmux("send-keys", "-t", name, *keys)

    def shown(self, name: str) -> str:
        """Text on the terminal."""
        return self._tmux("capture-pane", "-p", "-t", name)

    def close(self, name: str) -> None:
        """Close a terminal, like closing its window."""
        self._tmux("kill-session", "-t", name)

    def end(self) -> None:
        """Close every terminal."""
        self._tmux("kill-server")


async def wait_until(what: str, condition: Callable[[], bool]) -> None:
    """Wait until a condition is true.

    Raises:
        TimeoutError: the condition stayed false.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        await asyncio.sleep(0.1)


def report(what: str, *lines: str) -> None:
    """Print a line of the report, and lines from a screen."""
    print(f"✓ {what}", *(f"    {line.rstrip()}" for line in lines), sep="\n", flush=True)


def title(text: str) -> str:
    """The first line of a screen."""
    return next((line for line in text.splitlines() if line.strip()), "")


def progress(text: str) -> str:
    """The line of a screen that shows the progress of the run."""
    return next((line for line in text.splitlines() if "step " in line and "/500" in line), "")


def finished_steps(directory: RunDirectory) -> int:
    """Number of finished steps."""
    return directory.events.read_bytes().count(b'"StepFinished"')


async def forged_request_status(address: str, **headers: str) -> int:
    """HTTP status of a websocket request with these headers."""
    async with aiohttp.ClientSession() as session:
        try:
            await session.ws_connect(f"{address}socket", headers=headers)
        except aiohttp.WSServerHandshakeError as refused:
            return refused.status
    return 101


async def run_scenario(folder: Path, tmux: Tmux, picture: Path | None) -> None:
    """Run the full scenario."""
    tmux.open("first", (120, 40))
    tmux.type("first", " ".join([*APP, "--run", *RUN, "--detach"]), "Enter")
    await wait_until("a detached run", lambda: "ida-tui attach" in tmux.shown("first"))
    path = next((folder / "outputs/quickstart").glob("2*"))
    directory = RunDirectory(path)
    tmux.close("first")
    await wait_until("events", directory.events.is_file)
    await wait_until("a step", lambda: finished_steps(directory) > 0)
    assert owner.is_alive(directory)
    trainer = owner.owner_pid(directory)
    report(f"detached and its terminal closed; process {trainer} continues training")

    second = subprocess.run(
        [*APP, "resume", str(path)], cwd=folder, capture_output=True, text=True, check=False
    )
    assert second.returncode == 2, second
    assert owner.owner_pid(directory) == trainer
    report("a second trainer is refused, exit code 2", *second.stderr.splitlines())

    tmux.open("wide", (120, 40), *APP, "attach", str(path))
    tmux.open("small", (80, 24), *APP, "attach", str(path))
    server = subprocess.Popen(
        [*APP, "attach", str(path), "--serve", "--port", "0"],
        cwd=folder, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        address = server.stdout.readline().split()[-1]
        async with chromium.page(address) as page:
            await watch_and_pause(tmux, page, directory, picture)
            foreign_origin = await forged_request_status(address, Origin="http://evil.example")
            foreign_host = await forged_request_status(
                address, Origin=address.rstrip("/"), Host="evil.example"
            )
            assert (foreign_origin, foreign_host) == (403, 403)
            report(
                f"a forged Origin is refused ({foreign_origin}), and a forged Host ({foreign_host})"
            )
            await stop_run(tmux, page, directory)
        server.send_signal(signal.SIGINT)
        assert server.wait(PATIENCE_S) == 0
        report("Ctrl-C ended --serve, exit code 0")
    finally:
        server.kill()
        server.wait()
    tmux.open("again", (120, 40), *APP, "attach", str(path))
    await wait_until(
        "the run after attaching again", lambda: "Stopped after step" in tmux.shown("again")
    )
    report("attached again", *tmux.shown("again").splitlines()[:4])


async def watch_and_pause(
    tmux: Tmux, page: chromium.Page, directory: RunDirectory, picture: Path | None
) -> None:
    """Show the run in three viewers; pause it from one and resume it from another."""
    for name in ("wide", "small"):
        await wait_until(
            f"live in {name}", lambda n=name: "live (other process)" in title(tmux.shown(n))
        )  # type: ignore[misc]
    text = await page.wait_for_text("live (other process)", "/500")
    report("attached: 120×40", title(tmux.shown("wide")), progress(tmux.shown("wide")))
    report("attached: 80×24", title(tmux.shown("small")), progress(tmux.shown("small")))
    report("attached: Chromium", title(text), progress(text))

    for key in ("p", "s", "y", "q", "d", "1", "4"):
        await page.press(key)
    before = finished_steps(directory)
    await wait_until("two more steps", lambda: finished_steps(directory) >= before + 2)
    assert b'"RunPaused"' not in directory.events.read_bytes(), "p in the browser paused the run"
    report("p, s, y, q, d, 1 and 4 in the browser did nothing")
    tmux.type("wide", "p")
    await wait_until("paused, small", lambda: "paused" in title(tmux.shown("small")))
    await wait_until("paused, wide", lambda: "paused" in title(tmux.shown("wide")))
    text = await page.wait_for_text("· paused")
    report("paused by p in the first; seen in the first", progress(tmux.shown("wide")))
    report("seen in the second", progress(tmux.shown("small")))
    report("seen in Chromium", title(text), progress(text))
    if picture is not None:
        picture.write_bytes(await page.screenshot())
    tmux.type("small", "p")
    await page.wait_for_text("live (other process)")
    await wait_until("resumed", lambda: "live (other process)" in title(tmux.shown("wide")))
    report("resumed by p in the second")


async def stop_run(tmux: Tmux, page: chromium.Page, directory: RunDirectory) -> None:
    """Stop the run from a terminal; the other viewers show it."""
    tmux.type("small", "s")
    await wait_until("the question", lambda: "Stop the training?" in tmux.shown("small"))
    tmux.type("small", "y")
    await wait_until("stopped", lambda: "Stopped after step" in tmux.shown("wide"))
    text = await page.wait_for_text("Stopped after step")
    await wait_until("the end of its process", lambda: not owner.is_alive(directory))
    line = next(line for line in text.splitlines() if "Stopped after step" in line)
    report("stopped from the second; seen in Chromium", line)


def main() -> int:
    """Run the scenario; returns 1 if a check failed and 2 if a program is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="save a PNG of the paused run")
    options = parser.parse_args()
    missing = [name for name in ("tmux", *([] if chromium.CHROMIUM else ["chromium"]))
               if name == "chromium" or not shutil.which(name)]  # fmt: skip
    if missing:
        print(f"needs {' and '.join(missing)}, which is not installed", file=sys.stderr)
        return 2
    repository = str(Path(__file__).parents[2])
    os.environ["PYTHONPATH"] = repository
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        tmux = Tmux(folder)
        try:
            asyncio.run(run_scenario(folder, tmux, options.picture))
        except (AssertionError, TimeoutError) as error:
            print(f"✗ not seen: {error}", file=sys.stderr)
            for terminal in ("first", "wide", "small", "again"):
                print(tmux.shown(terminal), file=sys.stderr)
            return 1
        finally:
            tmux.end()
            for path in folder.glob("outputs/*/*/owner.json"):
                pid = owner.owner_pid(RunDirectory(path.parent))
                if pid is not None and owner.is_alive(RunDirectory(path.parent)):
                    os.kill(pid, signal.SIGKILL)
    print("a detached run was watched by three viewers, paused, stopped and attached to again")
    return 0


if __name__ == "__main__":
    sys.exit(main())
