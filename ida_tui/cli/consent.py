"""The question whether a profile of somebody else may do what it asks for, on a terminal."""

from __future__ import annotations

import sys

from ida_tui.cli.output.lines import print_status
from ida_tui.config.trust.consent import ConsentRequired, remember_answer


def ask_for_consent(required: ConsentRequired) -> bool:
    """Ask for every missing agreement and remember them; False without a terminal, or if one is refused.

    Raises:
        IdaError: an agreement cannot be remembered.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    print_status(f"! {required.where}: this profile is not yours.")
    for consent in required.missing:
        print_status(f"  It {consent.description()}.")
        print("  Agree, now and later? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            return False
    remember_answer(required)
    return True
