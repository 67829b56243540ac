"""Agreement of two judges, as printed lines and as JSON values. Pure functions."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ida_tui.analysis.rejudge import Agreement, Drawn, Rejudging
from ida_tui.util.text import table

NAMES = {"r_ida": "R_IDA"}
HEAD = ("rank agreement", "equal", "within half", "within one", "mean difference")


def opening(name: str, drawn: Drawn, judge: str, cost: float | None, seed: int) -> list[str]:
    """What will be judged, and the estimated cost."""
    chosen = len(drawn.completions)
    how = "all" if chosen == drawn.of else f"{chosen:,} drawn with seed {seed}"
    out = [f"{name}: {drawn.of:,} completions with scores, {how}; judging again with {judge}"]
    if drawn.unscored:
        out.append(f"! {drawn.unscored:,} completions without scores skipped")
    if drawn.unknown:
        out.append(
            f"! {drawn.unknown:,} completions skipped: config.yaml does not have their prompts"
        )
    if cost is None:
        out.append("! cost unknown: the judge profile has no price")
    elif cost:
        out.append(f"  about ${cost:.4f} if nothing is in the judge cache; Ctrl-C stops early")
    return out


def lines(result: Rejudging) -> list[str]:
    """Agreement per score, then coverage, calls and cost."""
    out = []
    if result.interrupted:
        out.append(f"! stopped early: {result.answered:,} of {result.asked:,} verdicts received")
    if result.agreements:
        out += table(HEAD, [(NAMES.get(a.figure, a.figure), _cells(a)) for a in result.agreements])
        out += [
            "",
            "  rank agreement: Spearman's rho; half and one: points out of 10 (R_IDA: 0.05 and 0.1);",
            "  mean difference: the new judge's score minus the run's own",
            "",
        ]
    stats = result.stats
    cost = "cost unknown" if stats.cost is None else f"${stats.cost:.4f}"
    coverage = 100 * result.scored / result.asked if result.asked else 0.0
    out.append(f"  coverage  {result.scored:,} of {result.asked:,} have scores ({coverage:.0f}%)")
    out.append(
        f"  calls     {stats.calls:,}, {stats.cached:,} from the cache, "
        f"{stats.failed:,} failed, {cost}, {stats.seconds:.1f} s"
    )
    return out


def _cells(agreement: Agreement) -> tuple[str, ...]:
    return (
        "–" if agreement.spearman is None else f"{agreement.spearman:.3f}",
        *(
            f"{100 * share:.0f}%"
            for share in (agreement.exact, agreement.within_half, agreement.within_one)
        ),
        f"{agreement.difference:+.{3 if agreement.figure == 'r_ida' else 2}f}",
    )


def as_json(name: str, drawn: Drawn, judge: str, seed: int, found: Rejudging) -> dict[str, Any]:
    """The result as JSON values."""
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
        "agreement": {agreement.figure: asdict(agreement) for agreement in found.agreements},
        "calls": found.stats.calls,
        "cached": found.stats.cached,
        "failed": found.stats.failed,
        "cost": found.stats.cost,
        "seconds": found.stats.seconds,
    }
