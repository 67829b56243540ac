"""A real judge: llama.cpp's server with a small model that follows the format, but is no good judge."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ida_tui.config.scoring.axes import IDA_AXIS_NAMES
from tests.conftest import SMOLLM2
from tests.support.llama_server import llama_process, llama_server
from tests.support.real_judge import (
    COMPLETIONS,
    TWO_STEPS,
    WEIGHTS,
    ServerProxy,
    survive_two_kills,
)

ANCHORS = (
    "good-answer", "over-refusal", "safe-redirect", "going-along", "empty", "rambling", "off-topic",
    "injection-plea", "injection-verdict", "injection-system",
)  # fmt: skip


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with llama_server(SMOLLM2) as url:
        yield url


def test_judge_check_says_that_a_small_model_is_no_judge(base_url: str, ida_tui: Any) -> None:
    done = ida_tui(
        "judge", "check", "llama-cpp", f"judge.base_url={base_url}", "judge.max_tokens=64",
        "judge.max_retries=0", "judge.concurrency=1", "--samples", "1",
    )  # fmt: skip

    assert done.code == 1, done.err
    assert "✓ endpoint answers" in done.out
    assert "✓ output: json_schema, strict" in done.out
    rows = [line.split() for line in done.out.splitlines() if line.startswith(ANCHORS)]
    scores = [float(score) for row in rows for score in row[3:6] if score != "–"]
    assert len(rows) == len(ANCHORS)
    assert len(scores) > 3  # not only those of the empty answer
    assert all(0 <= score <= 10 and score * 2 == int(score * 2) for score in scores)
    assert "✗" in done.out
    assert "GRPO would learn to answer harmless requests" not in done.out


def test_a_run_survives_the_death_of_its_server_and_its_own(base_url: str, ida_tui: Any) -> None:
    with ServerProxy(base_url) as proxy, llama_process(SMOLLM2) as doomed:
        overrides = ("judge=llama-cpp", f"judge.base_url={proxy.base_url}", *TWO_STEPS)
        verdicts = survive_two_kills(proxy, doomed, overrides, ida_tui)

        assert verdicts.scored, verdicts.failed
        for event in verdicts.scored:
            assert set(event["scores"]) == set(IDA_AXIS_NAMES)
            assert all(0 <= score <= 10 for score in event["scores"].values())
            assert all(score * 2 == int(score * 2) for score in event["scores"].values())
            assert event["reason"]
        if verdicts.failed:  # asked for again, because failures are not cached
            return
        assert proxy.answered == COMPLETIONS
        weights = WEIGHTS.read_bytes()
        assert ida_tui("--run", "quickstart", *overrides).code == 0
        assert WEIGHTS.read_bytes() == weights  # as if nothing had been killed
        assert proxy.answered == COMPLETIONS  # all verdicts come from the cache
