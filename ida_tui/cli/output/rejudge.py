"""How far two judges agree, as printed lines and as plain values. Pure functions."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ida_tui.analysis.rejudge import Agreement, Drawn, Rejudging
from ida_tui.util.text import table

NAMES = {"r_ida": "R_IDA"}
HEAD = ("rank agreement", "equal", "within half", "within one", "mean difference")


def opening(name: str, drawn: Drawn, judge: str, cost: float | None, seed: int) -> list[str]:
    """What is about to be asked, and what it may cost."""
    chosen = len(drawn.completions)
    how = "all" if chosen == drawn.of else f"{chosen:,} drawn with seed {seed}"
    out = [f"{name}: {drawn.of:,} completions with scores, {how}, judged again by {judge}"]
    if drawn.unscored:
        out.append(f"! {drawn.unscored:,} more have no verdict to agree with, and are left out")
    if drawn.unknown:
        out.append(f"! {drawn.unknown:,} more are of prompts that its config.yaml does not have")
    if cost is None:
        out.append("! cost unknown: the judge's profile states no price")
    elif cost:
        out.append(f"  about ${cost:.4f} if nothing is kept from before; Ctrl-C ends it early")
    return out


def lines(found: Rejudging) -> list[str]:
    """Agreement per figure, then what it took."""
    out = []
    if found.interrupted:
        out.append(f"! ended early: {found.answered:,} of {found.asked:,} verdicts came")
    if found.agreements:
        out += table(HEAD, [(NAMES.get(a.figure, a.figure), _cells(a)) for a in found.agreements])
        out += [
            "",
            "  rank agreement is Spearman's; half and one are points of ten (R_IDA: 0.05 and 0.1);",
            "  the difference is the new judge's score less the run's own",
            "",
        ]
    stats = found.stats
    cost = "cost unknown" if stats.cost is None else f"${stats.cost:.4f}"
    share = 100 * found.scored / found.asked if found.asked else 0.0
    out.append(f"  coverage  {found.scored:,} of {found.asked:,} have scores ({share:.0f} %)")
    out.append(
        f"  calls     {stats.calls:,}, {stats.cached:,} from the cache, "
        f"{stats.failed:,} without a verdict, {cost}, {stats.seconds:.1f} s"
    )
    return out


def _cells(one: Agreement) -> tuple[str, ...]:
    return (
        "–" if one.spearman is None else f"{one.spearman:.3f}",
        *(f"{100 * share:.0f} %" for share in (one.exact, one.within_half, one.within_one)),
        f"{one.difference:+.{3 if one.figure == 'r_ida' else 2}f}",
    )


def as_json(name: str, drawn: Drawn, judge: str, seed: int, found: Rejudging) -> dict[str, Any]:
    """The same as plain values."""
    return {
        "run": name,
        "judge": judge,
        "completions": drawn.of,
        "seed": seed,
        "asked": found.asked,
        "answered": found.answered,
        "scored": found.scored,
        "interrupted": found.interrupted,
        "unavailable": found.unavailable.title if found.unavailable else None,
        "agreement": {one.figure: asdict(one) for one in found.agreements},
        "calls": found.stats.calls,
        "cached": found.stats.cached,
        "failed": found.stats.failed,
        "cost": found.stats.cost,
        "seconds": found.stats.seconds,
    }
