"""Comparison of runs: loading (`reading`), and text and JSON for the command and the app (`words`)."""
