"""The GRPO engine: TRL's trainer in a thread of its own, emitting events.

Nothing here is imported by a face of the program before a run starts; `ida_tui.engine.session` is the
way in, and it imports torch only on the thread that it owns.
"""
