"""Textual app: choose a model and an experiment, and watch the run."""
