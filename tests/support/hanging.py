"""An event for which reward functions of tests wait; setting it ends their threads."""

from __future__ import annotations

import threading

released = threading.Event()
