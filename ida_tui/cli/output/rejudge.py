"""Agreement between two judges, as printed lines and as JSON values."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

from ida_tui.analysis.rejudge import JudgeAgreement, RejudgeResult, RejudgeSample
from ida_tui.util.format import format_cost, format_count, format_signed
from ida_tui.util.text import table_lines

AGREEMENT_COLUMNS = ("rank agreement", "equal", "within half", "within one", "mean difference")


def rejudge_header(
    name: str, drawn: RejudgeSample, judge: str, cost: float | None, seed: int
) -> list[str]:
    """What will be judged, and the estimated cost."""
    chosen = len(drawn.completions)
    how = "all" if chosen == drawn.scored_total else f"{chosen:,} drawn with seed {seed}"
    out = [
        f"{name}: {format_count(drawn.scored_total, 'completion')} with scores, {how};"
        f" judging again with {judge}"
    ]
    if drawn.unscored:
        out.append(f"! {format_count(drawn.unscored, 'completion')} without scores skipped")
    if drawn.unknown_prompts:
        out.append(
            f"! {format_count(drawn.unknown_prompts, 'completion')} skipped:"
            " config.yaml does not have their prompts"
        )
    if cost is None:
        out.append("! cost unknown: the judge profile has no price")
    elif cost:
        out.append(
            f"  about {format_cost(cost)} if nothing is in the judge cache; Ctrl-C stops early"
        )
    return out


def rejudge_lines(result: RejudgeResult, reward: str) -> list[str]:
    """Agreement per score, then coverage, calls and cost; `reward` is the name of the reward."""
    out = []
    if result.interrupted:
        out.append(
            f"! stopped early: {result.received:,} of {result.requested:,} verdicts received"
        )
    if result.agreements:
        out += table_lines(
            AGREEMENT_COLUMNS,
            [(a.figure or reward, _agreement_cells(a)) for a in result.agreements],
        )
        out += [
            "",
            f"  rank agreement: Spearman's rho; half and one: points out of 10 ({reward}: 0.05 and 0.1);",
            "  mean difference: the new judge's score minus the run's own",
            "",
        ]
    stats = result.stats
    cost = format_cost(stats.cost, "cost unknown")
    coverage = 100 * result.scored / result.requested if result.requested else 0.0
    out.append(
        f"  coverage  {result.scored:,} of {result.requested:,} have scores ({coverage:.0f}%)"
    )
    out.append(
        f"  calls     {stats.calls:,}, {stats.cached:,} from the cache, "
        f"{stats.failed:,} failed, {cost}, {stats.seconds:.1f} s"
    )
    return out


def _agreement_cells(agreement: JudgeAgreement) -> tuple[str, ...]:
    return (
        "–" if agreement.spearman is None else f"{agreement.spearman:.3f}",
        *(
            f"{100 * share:.0f}%"
            for share in (agreement.exact, agreement.within_half, agreement.within_one)
        ),
        format_signed(agreement.difference, 2 if agreement.figure else 3),
    )


def as_json(
    name: str, drawn: RejudgeSample, judge: str, seed: int, result: RejudgeResult
) -> dict[str, Any]:
    """The result as JSON values."""
    return {
        "run": name,
        "judge": judge,
        "completions": drawn.scored_total,
        "seed": seed,
        "asked": result.requested,
        "answered": result.received,
        "scored": result.scored,
        "interrupted": result.interrupted,
        "unavailable": result.unavailable.title if result.unavailable else None,
        "agreement": {
            agreement.figure or "reward": asdict(agreement) for agreement in result.agreements
        },
        "calls": result.stats.calls,
        "cached": result.stats.cached,
        "failed": result.stats.failed,
        "cost": result.stats.cost,
        "seconds": result.stats.seconds,
    }


def show_progress(received: int, total: int) -> None:
    """Update the progress line on a terminal; the last call clears it."""
    if sys.stderr.isatty():
        text = f"  {received:,} of {total:,} verdicts" if received < total else ""
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
