"""Optional sinks for the metrics of a run: W&B, Trackio, TensorBoard and a CSV file.

Each sink is a class with the four methods of `base.Sink`. Sinks receive events only after the run has written
them to disk.
"""
