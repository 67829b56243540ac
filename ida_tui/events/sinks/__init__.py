"""Other places that a run's figures are sent to: W&B, Trackio, TensorBoard, a CSV file; none is required.

Each is a `base.Sink` of four methods, in a module of its own; `feed.Feed` hands them what the run has already
written to its disk.
"""
