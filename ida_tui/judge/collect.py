"""Waiting for the verdicts of judge requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, Future, wait

from ida_tui.judge.errors import JudgeInterrupted
from ida_tui.judge.verdict import Verdict

POLL_INTERVAL_S = 0.05
"""Seconds between two checks of `should_stop`."""

OnVerdictProgress = Callable[[int, int], object]
"""Called with the number of verdicts received and the total."""


def collect(
    futures: Sequence[Future[Verdict]],
    *,
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: OnVerdictProgress = lambda received, total: None,
) -> list[Verdict]:
    """Wait for the verdicts of all requests; any error cancels the pending ones.

    Args:
        futures: one future per request, from `JudgeService.submit`.
        should_stop: polled while requests are pending.
        on_progress: called repeatedly while verdicts arrive.

    Returns:
        The verdicts in the order of the requests.

    Raises:
        JudgeInterrupted: `should_stop` returned true, or the service was closed.
        JudgeUnavailable: the judge cannot be used.
    """
    pending = set(futures)
    try:
        while True:
            done, pending = wait(pending, timeout=0, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
            on_progress(len(futures) - len(pending), len(futures))
            if not pending:
                return [future.result() for future in futures]
            if should_stop():
                raise JudgeInterrupted
            wait(pending, timeout=POLL_INTERVAL_S, return_when=FIRST_EXCEPTION)
    except CancelledError:
        raise JudgeInterrupted from None
    finally:
        # The last ones first: a canceled call makes room for the next one, which must not be sent.
        for future in reversed(futures):
            future.cancel()


def split_future(call: Future[list[Verdict]], count: int) -> list[Future[Verdict]]:
    """A future for each verdict of a call that returns `count` of them; canceling one cancels the call."""
    futures: list[Future[Verdict]] = [Future() for _ in range(count)]

    def deliver(done: Future[list[Verdict]]) -> None:
        canceled = done.cancelled()
        error = None if canceled else done.exception()
        for number, future in enumerate(futures):
            if canceled:
                future.cancel()
            if not future.set_running_or_notify_cancel():
                continue
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(done.result()[number])

    def cancel_call(future: Future[Verdict]) -> None:
        if future.cancelled():
            call.cancel()

    for future in futures:
        future.add_done_callback(cancel_call)
    call.add_done_callback(deliver)
    return futures


def received_verdict(future: Future[Verdict]) -> Verdict | None:
    """The verdict of a request; None if the request is pending, was canceled or failed."""
    if not future.done() or future.cancelled() or future.exception() is not None:
        return None
    return future.result()
