"""Comparison of runs: loading, and text and JSON for the command line and the app."""
