"""`ida-tui doctor`, and the self-test that every run on a device begins with: a wrong device is noticed."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from torch.nn import functional

from ida_tui.engine.diagnostics import doctor, selftest
from ida_tui.engine.rollout.sampling import TokenSampler
from ida_tui.errors import IdaError

CHECKS = list(selftest.CHECKS)


def wrong(results: list[selftest.SelfTestResult]) -> set[str]:
    return {result.name for result in results if result.problem}


def test_a_device_that_computes_rightly_passes_every_check() -> None:
    results = selftest.run_self_test("cpu")
    assert [result.name for result in results] == CHECKS
    assert wrong(results) == set()


def leaking(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **more: Any) -> torch.Tensor:
    """Attention that looks ahead in half precision, as Metal's once did."""
    if q.dtype == torch.bfloat16:
        more.pop("is_causal", None)
    return real_attention(q, k, v, **more)


def stale(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **more: Any) -> torch.Tensor:
    """Attention that is wrong for a single query, as Metal's once was while decoding."""
    out = real_attention(q, k, v, **more)
    return out.roll(1, dims=0) if q.shape[2] == 1 and q.dtype == torch.bfloat16 else out


def unfinished(x: torch.Tensor, weight: torch.Tensor, bias: Any = None) -> torch.Tensor:
    """A product whose last rows are never written for some batch sizes."""
    out = real_linear(x, weight, bias)
    if x.dtype == torch.bfloat16 and x.shape[0] == 14:
        out = out.clone()
        out[8:] = 0
    return out


def heedless(scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer) -> None:
    """An optimizer that is not told of an overflow, as Metal's fused one is not."""
    scaler.unscale_(optimizer)
    optimizer.step()


real_attention, real_linear = functional.scaled_dot_product_attention, functional.linear


@pytest.mark.parametrize(
    ("where", "name", "broken", "noticed"),
    [
        (functional, "scaled_dot_product_attention", leaking, "causal attention"),
        (functional, "scaled_dot_product_attention", stale, "attention while decoding"),
        (functional, "linear", unfinished, "half-precision products"),
        (TokenSampler, "draw", lambda self, logits, seen=None: logits.argmax(-1), "sampling"),
        (functional, "silu", lambda x: x * float("nan"), "gradients"),
        (torch.amp.GradScaler, "step", heedless, "gradient scaler"),
    ],
    ids=CHECKS[1:3] + CHECKS[:1] + CHECKS[3:],
)
def test_a_device_that_computes_wrongly_is_noticed_and_refused(
    where: Any, name: str, broken: Any, noticed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, name, broken)
    assert noticed in wrong(selftest.run_self_test("cpu"))
    with pytest.raises(IdaError, match=noticed) as refused:
        selftest.require_self_test("cpu")
    assert refused.value.code == 5


def test_doctor_says_what_this_machine_is_and_shows_no_key(ida_tui_here: Any) -> None:
    done = ida_tui_here("doctor", OPENAI_API_KEY="sk-secret-0123456789")
    assert done.code == 0, done.out
    assert "OPENAI_API_KEY is set (environment)" in done.out
    assert "passes the numerical self-test" in done.out
    assert "sk-secret" not in done.out + done.err


def test_doctor_in_json_has_every_finding_with_its_verdict(ida_tui_here: Any) -> None:
    found = json.loads(ida_tui_here("doctor", "--json").out)
    assert {"system", "memory", "libraries", "device", "disk", "models", "network"} <= {
        finding["about"] for finding in found
    }
    assert {finding["verdict"] for finding in found} <= {"good", "note", "bad"}


def test_doctor_ends_with_5_where_the_judge_that_is_asked_for_cannot_be_used(
    ida_tui_here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    done = ida_tui_here("doctor", "--judge", "gpt-4o-mini")
    assert done.code == 5
    assert "OPENAI_API_KEY is not set" in done.out


def test_doctor_says_whether_models_could_be_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.create_server(("127.0.0.1", 0)) as hub:
        port = hub.getsockname()[1]
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
        there = doctor.check_network()
    gone = doctor.check_network()
    assert (there.severity, there.text) == ("good", "127.0.0.1 can be reached")
    assert (gone.severity, gone.text) == ("note", "127.0.0.1 cannot be reached: Connection refused")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert doctor.check_network().text == "not checked: HF_HUB_OFFLINE is set"


@pytest.mark.parametrize(
    ("system", "device", "version", "severity"),
    [
        ("darwin", "mps", "2.10.0", "error"),
        ("darwin", "mps", "2.13.1", "note"),
        ("darwin", "mps", "2.14.0", None),
        ("darwin", "cpu", "2.10.0", None),
        ("linux", "cuda", "2.10.0+cu128", None),
    ],
)
def test_combinations_that_are_publicly_known_to_be_bad_are_named(
    system: str, device: str, version: str, severity: str | None
) -> None:
    known = doctor.known_defect(system, device, version)
    assert (known and known[0]) == severity
