"""Leave a run alone, and watch it from two terminals and a browser at once; prints what was seen.

    python -m tests.faults.attach                       # a minute; needs tmux and Chromium
    python -m tests.faults.attach --picture seen.png    # and what the browser showed while it was paused

The run is started in a terminal that is closed then. It is paused from one terminal, which the others
have to show, then stopped, and attached to again. A second trainer and a forged origin have to be refused.
Exit code 1 where anything is not as it should be.
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

WAIT_S = 90.0
RUN = (
    "quickstart", "training.max_steps=500", "evaluation.enabled=false",
    "training.num_generations=4", "training.per_device_train_batch_size=8",
)  # fmt: skip
APP = (sys.executable, "-m", "ida_tui")


class Tmux:
    """Terminals of a tmux server of our own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _tmux(self, *arguments: str) -> str:
        done = subprocess.run(
            ["tmux", "-S", str(self._folder / "tmux"), "-f", "/dev/null", *arguments],
            capture_output=True, text=True, check=False, cwd=self._folder,
        )  # fmt: skip
        return done.stdout

    def open(self, name: str, size: tuple[int, int], *command: str) -> None:
        """A terminal with a command on it; without one, a shell."""
        columns, rows = map(str, size)
        self._tmux("new-session", "-d", "-s", name, "-x", columns, "-y", rows, *command)

    def type(self, name: str, *keys: str) -> None:
        """Press keys."""
        self._tmux("send-keys", "-t", name, *keys)

    def shown(self, name: str) -> str:
        """What is on the terminal."""
        return self._tmux("capture-pane", "-p", "-t", name)

    def close(self, name: str) -> None:
        """Close a terminal, as a person closes its window."""
        self._tmux("kill-session", "-t", name)

    def end(self) -> None:
        """Close every terminal."""
        self._tmux("kill-server")


async def until(what: str, look: Callable[[], bool]) -> None:
    """Wait until this is so.

    Raises:
        TimeoutError: it never did.
    """
    deadline = time.monotonic() + WAIT_S
    while not look():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        await asyncio.sleep(0.1)


def say(what: str, *seen: str) -> None:
    """Print a line of the report, and what was seen."""
    print(f"✓ {what}", *(f"    {line.rstrip()}" for line in seen), sep="\n", flush=True)


def title(text: str) -> str:
    """The first line of a screen."""
    return next((line for line in text.splitlines() if line.strip()), "")


def progress(text: str) -> str:
    """The line of a screen that says what the run is doing."""
    return next((line for line in text.splitlines() if "step " in line and "/500" in line), "")


def steps(directory: RunDirectory) -> int:
    """How many steps have finished."""
    return directory.events.read_bytes().count(b'"StepFinished"')


async def forged(address: str, **headers: str) -> int:
    """The status that a socket with these headers is answered with."""
    async with aiohttp.ClientSession() as session:
        try:
            await session.ws_connect(f"{address}socket", headers=headers)
        except aiohttp.WSServerHandshakeError as refused:
            return refused.status
    return 101


async def play(folder: Path, tmux: Tmux, picture: Path | None) -> None:
    """The whole story."""
    tmux.open("first", (120, 40))
    tmux.type("first", " ".join([*APP, "--run", *RUN, "--detach"]), "Enter")
    await until("a detached run", lambda: "ida-tui attach" in tmux.shown("first"))
    found = next((folder / "outputs/quickstart").glob("2*"))
    directory = RunDirectory(found)
    tmux.close("first")
    await until("events", directory.events.is_file)
    await until("a step", lambda: steps(directory) > 0)
    assert owner.is_alive(directory)
    trainer = owner.owner_pid(directory)
    say(f"detached, its terminal closed; process {trainer} trains on")

    second = subprocess.run(
        [*APP, "resume", str(found)], cwd=folder, capture_output=True, text=True, check=False
    )
    assert second.returncode == 2, second
    assert owner.owner_pid(directory) == trainer
    say("a second trainer is refused, exit code 2", *second.stderr.splitlines())

    tmux.open("wide", (120, 40), *APP, "attach", str(found))
    tmux.open("small", (80, 24), *APP, "attach", str(found))
    server = subprocess.Popen(
        [*APP, "attach", str(found), "--serve", "--port", "0"],
        cwd=folder, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        address = server.stdout.readline().split()[-1]
        async with chromium.page(address) as page:
            await watched(tmux, page, directory, picture)
            evil = await forged(address, Origin="http://evil.example")
            rebound = await forged(address, Origin=address.rstrip("/"), Host="evil.example")
            assert (evil, rebound) == (403, 403)
            say(f"a forged Origin is refused ({evil}), and a forged Host ({rebound})")
            await stopped(tmux, page, directory)
        server.send_signal(signal.SIGINT)
        assert server.wait(WAIT_S) == 0
        say("Ctrl-C ended --serve, exit code 0")
    finally:
        server.kill()
        server.wait()
    tmux.open("again", (120, 40), *APP, "attach", str(found))
    await until("the run, again", lambda: "Stopped after step" in tmux.shown("again"))
    say("attached again", *tmux.shown("again").splitlines()[:4])


async def watched(
    tmux: Tmux, page: chromium.Page, directory: RunDirectory, picture: Path | None
) -> None:
    """Three look at the run; it is paused from one of them, and goes on from another."""
    for name in ("wide", "small"):
        await until(
            f"live in {name}", lambda n=name: "live (other process)" in title(tmux.shown(n))
        )  # type: ignore[misc]
    text = await page.until_shown("live (other process)", "/500")
    say("attached: 120×40", title(tmux.shown("wide")), progress(tmux.shown("wide")))
    say("attached: 80×24", title(tmux.shown("small")), progress(tmux.shown("small")))
    say("attached: Chromium", title(text), progress(text))

    for key in ("p", "s", "y", "q", "d", "1", "4"):
        await page.press(key)
    done = steps(directory)
    await until("two more steps", lambda: steps(directory) >= done + 2)
    assert b'"RunPaused"' not in directory.events.read_bytes(), "p in the browser paused it"
    say("p, s, y, q, d, 1 and 4 in the browser did nothing")
    tmux.type("wide", "p")
    await until("paused, small", lambda: "paused" in title(tmux.shown("small")))
    await until("paused, wide", lambda: "paused" in title(tmux.shown("wide")))
    text = await page.until_shown("· paused")
    say("paused by p in the first; seen in the first", progress(tmux.shown("wide")))
    say("seen in the second", progress(tmux.shown("small")))
    say("seen in Chromium", title(text), progress(text))
    if picture is not None:
        picture.write_bytes(await page.picture())
    tmux.type("small", "p")
    await page.until_shown("live (other process)")
    await until("going on", lambda: "live (other process)" in title(tmux.shown("wide")))
    say("p in the second let it go on")


async def stopped(tmux: Tmux, page: chromium.Page, directory: RunDirectory) -> None:
    """It is stopped from a terminal; the others see it."""
    tmux.type("small", "s")
    await until("the question", lambda: "Stop the training?" in tmux.shown("small"))
    tmux.type("small", "y")
    await until("stopped", lambda: "Stopped after step" in tmux.shown("wide"))
    text = await page.until_shown("Stopped after step")
    await until("its process gone", lambda: not owner.is_alive(directory))
    line = next(line for line in text.splitlines() if "Stopped after step" in line)
    say("stopped from the second; seen in Chromium", line)


def main() -> int:
    """Play it; the exit code says whether everything was as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="a PNG of the paused run")
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
            asyncio.run(play(folder, tmux, options.picture))
        except (AssertionError, TimeoutError) as error:
            print(f"✗ not seen: {error}", file=sys.stderr)
            for terminal in ("first", "wide", "small", "again"):
                print(tmux.shown(terminal), file=sys.stderr)
            return 1
        finally:
            tmux.end()
            for path in folder.glob("outputs/*/*/owner.json"):
                number = owner.owner_pid(RunDirectory(path.parent))
                if number is not None and owner.is_alive(RunDirectory(path.parent)):
                    os.kill(number, signal.SIGKILL)
    print("a detached run was watched by three, paused, stopped and found again")
    return 0


if __name__ == "__main__":
    sys.exit(main())
