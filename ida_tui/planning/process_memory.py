"""Memory of several processes that train together: parts of the weights, and buffers of gradients."""

from __future__ import annotations

from dataclasses import dataclass

from ida_tui.config.model_files import ModelShape
from ida_tui.config.schema import Config


@dataclass(frozen=True, slots=True)
class ProcessShare:
    """What one of several processes holds of a model.

    Args:
        config: the profile.
        shape: layer sizes of the model.
        weight_bytes: bytes of all weights.
        processes: number of processes.
    """

    config: Config
    shape: ModelShape
    weight_bytes: float
    processes: int

    @property
    def shards(self) -> int:
        """Number of parts that the weights are divided into."""
        return self.processes if self.config.training.sharding == "fsdp" else 1

    @property
    def policy(self) -> float:
        """Bytes of the process's weights."""
        return self.weight_bytes / self.shards

    @property
    def gathered(self) -> float:
        """Bytes of whole layers: FSDP2 gathers two at a time, and keeps the output layer."""
        return 2 * self._layer + self._output_layer if self.shards > 1 else 0.0

    def gradient_buffers(self, gradients: float) -> float:
        """Bytes of gradients beside those that the process keeps, of which there are so many bytes.

        torch's DistributedDataParallel keeps gradients in its buckets, and copies each new one there. FSDP2
        computes those of a whole layer, and keeps a part.
        """
        if self.processes == 1:
            return 0.0
        if self.shards == 1:
            return min(max(self._output_layer, self._largest_matrix), gradients)
        is_full = self.config.training.method == "full"
        return self._layer + self._output_layer if is_full else 0.0

    @property
    def _per_weight(self) -> float:
        return self.weight_bytes / max(1, self.shape.parameter_count())

    @property
    def _output_layer(self) -> float:
        return self._per_weight * self.shape.vocabulary * self.shape.hidden

    @property
    def _largest_matrix(self) -> float:
        return self._per_weight * self.shape.intermediate * self.shape.hidden

    @property
    def _layer(self) -> float:
        sizes = self.shape.linear_shapes().values()
        return self._per_weight * sum(inputs * outputs for inputs, outputs in sizes)
