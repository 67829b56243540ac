"""The app: pick a model and an experiment, and watch the run. Reads `ida_tui.events.state` and nothing past it."""
