"""How long a test waits for what must happen."""

PATIENCE_S = 240.0
"""Seconds after which a wait has failed; long enough that only a hang reaches it, on any machine."""
