"""The run directory: the one place where a run is kept, written as it goes and never overwritten."""
