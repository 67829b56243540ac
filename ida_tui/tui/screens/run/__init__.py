"""Panes of the run screen, one per module."""
