"""CUDA graph of a step that is computed many times on the same tensors.

On a GPU, starting the many small kernels of one token takes longer than computing them. A graph starts all of
them at once. Whether that is faster here is measured in the first rollout of a run. The kernels are the same
ones either way, so the choice changes no number.

This code was tested with a simulated graph on the CPU, and has not run on a GPU yet.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

Step = Callable[[], torch.Tensor]
"""Computes on fixed tensors, which it changes in place, and returns a tensor."""

WARM_UP_STEPS, TIMED_STEPS = 3, 5


class GraphChoice:
    """Whether the steps of a run are started as CUDA graphs.

    Args:
        say: called once with the choice and its reason, a sentence for the log.
        capture: records a step as a graph, and returns a function that runs it.
    """

    def __init__(
        self,
        say: Callable[[str], object],
        capture: Callable[[Step, Callable[[], None]], Step] | None = None,
    ) -> None:
        self._say = say
        self._capture = capture or _capture
        self.uses_graphs: bool | None = None
        """None before the first rollout."""

    def prepare(self, step: Step, restore: Callable[[], None]) -> Step:
        """The step as a graph, or the step itself where that is not faster or not possible.

        Args:
            step: the step, which is run several times for the measurement.
            restore: undoes what a run of the step has changed.
        """
        if self.uses_graphs is False:
            return step
        try:
            graph = self._capture(step, restore)
        except (RuntimeError, NotImplementedError) as error:
            self.uses_graphs = False
            reason = " ".join(str(error).split())[:200]
            self._say(f"Sampling without a CUDA graph, because one cannot be recorded: {reason}")
            return step
        finally:
            restore()
        if self.uses_graphs is None:
            without, with_graph = _seconds(step, restore), _seconds(graph, restore)
            self.uses_graphs = with_graph < without
            self._say(
                f"Sampling {'with' if self.uses_graphs else 'without'} a CUDA graph: a token takes"
                f" {1000 * with_graph:.1f} ms with it and {1000 * without:.1f} ms without it"
            )
        return graph if self.uses_graphs else step


def graph_choice(device: torch.device, say: Callable[[str], object]) -> GraphChoice | None:
    """The choice for a run on this device; None where there are no CUDA graphs."""
    return GraphChoice(say) if device.type == "cuda" else None


def _capture(step: Step, restore: Callable[[], None]) -> Step:
    """Record a step; its kernels and workspaces are prepared by running it on another stream before."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP_STEPS):
            step()
            restore()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step()

    def replay() -> torch.Tensor:
        graph.replay()
        return out

    return replay


def _seconds(step: Step, restore: Callable[[], None]) -> float:
    """Time of a run of the step, in seconds."""
    step()
    restore()
    _synchronize()
    started = time.perf_counter()
    for _ in range(TIMED_STEPS):
        step()
        restore()
    _synchronize()
    return (time.perf_counter() - started) / TIMED_STEPS


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
