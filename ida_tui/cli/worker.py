"""Worker process of a distributed run: a compute thread and signal handling.

A launcher that ends a run signals every process. Here a signal is a request to stop. Rank 0 learns of it at
the next exchange, so that all ranks leave the step at the same point and rank 0 can save a checkpoint.
"""

from __future__ import annotations

import sys
import threading

from ida_tui.cli.output.lines import print_lines, print_status
from ida_tui.engine.distributed.environment import ProcessInfo
from ida_tui.engine.run.control import RunControl
from ida_tui.engine.run.worker import Worker
from ida_tui.errors import ExitCode, IdaError
from ida_tui.system.signals import STOP_SIGNALS, handle_signals


def run_worker(process: ProcessInfo) -> int:
    """Run as a rank other than 0 until the run ends; returns the exit status of the process."""
    control = RunControl()
    worker = Worker(process, control)
    codes: list[int] = []

    def compute() -> None:
        try:
            codes.append(worker.run())
        except IdaError as error:
            print_lines(error.lines(), file=sys.stderr)
            codes.append(int(error.code))

    with handle_signals(dict.fromkeys(STOP_SIGNALS, control.request_stop)):
        thread = threading.Thread(target=compute, name="ida-trainer", daemon=True)
        thread.start()
        while thread.is_alive():
            # Short timeouts, so that signals are handled in between, whatever the thread is doing.
            thread.join(timeout=0.2)
    if worker.failure:
        print_status(f"ida-tui: {process.label} ended: {worker.failure}")
    return codes[0] if codes else int(ExitCode.FAILED)
