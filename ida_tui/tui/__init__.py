"""The app: pick a model and an experiment, and watch the run. Reads `ida_tui.state` and nothing past it."""
