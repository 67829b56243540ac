"""Run directories: everything that a run writes to disk, and everything that reads it back."""
