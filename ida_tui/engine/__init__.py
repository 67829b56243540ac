"""GRPO engine: TRL's trainer on a background thread, reporting through events.

`ida_tui.engine.session` is the entry point. It imports torch only on the thread that it owns. The app and
the command line import nothing else from this package before a run starts.
"""
