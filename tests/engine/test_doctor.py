"""`ida-tui doctor` and the numerical self-test that every run performs on its device."""

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


def failed_checks(results: list[selftest.SelfTestResult]) -> set[str]:
    return {result.name for result in results if result.problem}


def test_a_device_that_computes_correctly_passes_every_check() -> None:
    results = selftest.run_self_test("cpu")
    assert [result.name for result in results] == CHECKS
    assert failed_checks(results) == set()


def attention_without_causal_mask(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any
) -> torch.Tensor:
    """Attention that ignores the causal mask in half precision, a former bug in Metal."""
    if q.dtype == torch.bfloat16:
        options.pop("is_causal", None)
    return real_attention(q, k, v, **options)


def attention_wrong_while_decoding(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any
) -> torch.Tensor:
    """Attention that is wrong for a single query, a former bug in Metal while decoding."""
    out = real_attention(q, k, v, **options)
    return out.roll(1, dims=0) if q.shape[2] == 1 and q.dtype == torch.bfloat16 else out


def linear_with_unwritten_rows(
    x: torch.Tensor, weight: torch.Tensor, bias: Any = None
) -> torch.Tensor:
    """A linear layer that does not write its last rows for some batch sizes."""
    out = real_linear(x, weight, bias)
    if x.dtype == torch.bfloat16 and x.shape[0] == 14:
        out = out.clone()
        out[8:] = 0
    return out


def step_despite_overflow(scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer) -> None:
    """An optimizer step that ignores an overflow, as Metal's fused optimizer does."""
    scaler.unscale_(optimizer)
    optimizer.step()


real_attention, real_linear = functional.scaled_dot_product_attention, functional.linear


@pytest.mark.parametrize(
    ("owner", "name", "broken", "check"),
    [
        (
            functional,
            "scaled_dot_product_attention",
            attention_without_causal_mask,
            "causal attention",
        ),
        (
            functional,
            "scaled_dot_product_attention",
            attention_wrong_while_decoding,
            "attention while decoding",
        ),
        (functional, "linear", linear_with_unwritten_rows, "half-precision products"),
        (TokenSampler, "draw", lambda self, logits, seen=None: logits.argmax(-1), "sampling"),
        (functional, "silu", lambda x: x * float("nan"), "gradients"),
        (torch.amp.GradScaler, "step", step_despite_overflow, "gradient scaler"),
    ],
    ids=CHECKS[1:3] + CHECKS[:1] + CHECKS[3:],
)
def test_a_device_that_computes_incorrectly_is_detected_and_refused(
    owner: Any, name: str, broken: Any, check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, name, broken)
    assert check in failed_checks(selftest.run_self_test("cpu"))
    with pytest.raises(IdaError, match=check) as refused:
        selftest.require_self_test("cpu")
    assert refused.value.code == 5


def test_doctor_describes_this_machine_without_printing_the_api_key(ida_tui_here: Any) -> None:
    done = ida_tui_here("doctor", OPENAI_API_KEY="sk-secret-0123456789")
    assert done.code == 0, done.out
    assert "OPENAI_API_KEY is set (environment)" in done.out
    assert "passes the numerical self-test" in done.out
    assert "sk-secret" not in done.out + done.err


def test_doctor_json_lists_every_finding_with_its_verdict(ida_tui_here: Any) -> None:
    findings = json.loads(ida_tui_here("doctor", "--json").out)
    assert {"system", "memory", "libraries", "device", "disk", "models", "network"} <= {
        finding["about"] for finding in findings
    }
    assert {finding["verdict"] for finding in findings} <= {"good", "note", "bad"}


def test_doctor_exits_with_5_when_the_requested_judge_cannot_be_used(
    ida_tui_here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    done = ida_tui_here("doctor", "--judge", "gpt-4o-mini")
    assert done.code == 5
    assert "OPENAI_API_KEY is not set" in done.out


def test_doctor_reports_whether_models_can_be_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.create_server(("127.0.0.1", 0)) as hub:
        port = hub.getsockname()[1]
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
        reachable = doctor.check_network()
    unreachable = doctor.check_network()
    assert (reachable.severity, reachable.text) == ("good", "127.0.0.1 can be reached")
    assert (unreachable.severity, unreachable.text) == (
        "note",
        "127.0.0.1 cannot be reached: Connection refused",
    )
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
def test_device_and_torch_combinations_with_known_defects_are_reported(
    system: str, device: str, version: str, severity: str | None
) -> None:
    defect = doctor.known_defect(system, device, version)
    assert (defect and defect[0]) == severity
