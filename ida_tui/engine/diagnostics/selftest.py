"""Numerical self-test of a device against the CPU; takes a few seconds.

Some Metal releases computed half-precision products, attention or sampling silently wrong: a run on such a
machine learns nonsense without an error. Every check compares with the CPU in float32. The checks run at the
start of every run on a GPU, and in `ida-tui doctor`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from ida_tui.config.schema import DeviceName
from ida_tui.engine.rollout.sampling import TokenSampler
from ida_tui.errors import ExitCode, IdaError

MAX_RELATIVE_ERROR = 0.02
"""Largest allowed relative L2 difference of a half-precision result from the CPU's float32 result."""


@dataclass(frozen=True, slots=True)
class SelfTestResult:
    """Result of one check: its name, the problem (empty if it passed) and its duration."""

    name: str
    problem: str
    seconds: float


def run_self_test(device: DeviceName) -> list[SelfTestResult]:
    """Run every check on a device, in its training format.

    Args:
        device: the device; mps is checked in float16, others in bfloat16.
    """
    dtype = torch.float16 if device == "mps" else torch.bfloat16
    results = []
    for name, check in CHECKS.items():
        started = time.perf_counter()
        try:
            problem = check(device, dtype)
        except (RuntimeError, TypeError, NotImplementedError) as error:
            problem = f"failed: {' '.join(str(error).split())[:120]}"
        results.append(SelfTestResult(name, problem, time.perf_counter() - started))
    return results


def require_self_test(device: DeviceName) -> None:
    """Raise if a device fails the self-test.

    Raises:
        IdaError: a check failed (exit code 5).
    """
    failed = [result for result in run_self_test(device) if result.problem]
    if not failed:
        return
    raise IdaError(
        f"{device} fails the numerical self-test: "
        + "; ".join(f"{result.name}: {result.problem}" for result in failed),
        "Update torch or the operating system; ida-tui doctor lists known defects.\n"
        "Set device=cpu to train on the CPU",
        code=ExitCode.DEVICE_UNUSABLE,
    )


def _random_tensor(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator)


def _difference(actual: torch.Tensor, expected: torch.Tensor) -> str:
    actual = actual.float().cpu()
    if not torch.isfinite(actual).all():
        return "the result is not finite"
    gap = float((actual - expected).norm() / expected.norm())
    return f"off by {gap:.1%}" if gap > MAX_RELATIVE_ERROR else ""


def _check_products(device: str, dtype: torch.dtype) -> str:
    weight = _random_tensor(384, 256)
    for rows in (1, 8, 14, 200):
        x = _random_tensor(rows, 256)
        actual = functional.linear(x.to(device, dtype), weight.to(device, dtype))
        if problem := _difference(actual, x @ weight.t()):
            return f"{problem} with {rows} rows"
    return ""


def _check_causal_attention(device: str, dtype: torch.dtype) -> str:
    q, k, v = (_random_tensor(2, 4, 65, 32 + n)[..., :32] for n in range(3))

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q, k, v = (tensor.contiguous().to(device, dtype) for tensor in (q, k, v))
        return functional.scaled_dot_product_attention(q, k, v, is_causal=True).float().cpu()

    actual = attend(q, k, v)
    if problem := _difference(
        actual, functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    ):
        return problem
    later_k, later_v = k.clone(), v.clone()
    later_k[:, :, 40:], later_v[:, :, 40:] = 3.0, -3.0
    leaked = (attend(q, later_k, later_v) - actual)[:, :, :40].abs().max()
    return f"later tokens change earlier ones by {float(leaked):.2g}" if leaked > 1e-3 else ""


def _check_decoding_attention(device: str, dtype: torch.dtype) -> str:
    for length in (1, 77, 128):
        q, k, v = (
            _random_tensor(8, 4, 1, 32),
            _random_tensor(8, 4, length, 32),
            _random_tensor(8, 4, length, 33)[..., :32],
        )
        expected = functional.scaled_dot_product_attention(q, k, v)
        q, k, v = (tensor.contiguous().to(device, dtype) for tensor in (q, k, v))
        if problem := _difference(functional.scaled_dot_product_attention(q, k, v), expected):
            return f"{problem} over {length} tokens"
    return ""


def _check_sampling(device: str, dtype: torch.dtype) -> str:
    rows = 20_000
    logits = 1.5 * _random_tensor(50)
    drawn = TokenSampler().draw(logits.to(device).expand(rows, -1)).cpu()
    expected = torch.softmax(logits, dim=0) * rows
    counts = torch.bincount(drawn.clamp(0, 50), minlength=51)[:50].float()
    # Pearson's statistic has mean 49 and standard deviation 10 if the draws follow the logits.
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return f"draws do not follow the logits (chi-square {statistic:.0f})" if statistic > 120 else ""


def _check_gradients(device: str, dtype: torch.dtype) -> str:
    x, base, target = _random_tensor(32, 64), _random_tensor(64, 64) / 8, _random_tensor(32, 64)
    down, up = _random_tensor(8, 64) / 8, _random_tensor(64, 8) / 8

    def gradients(device: str, dtype: torch.dtype | None) -> list[torch.Tensor]:
        a, b = (t.clone().to(device).requires_grad_() for t in (down, up))
        inputs, frozen, target_tensor = (t.to(device) for t in (x, base, target))
        with torch.autocast(device, dtype, enabled=dtype is not None):
            y = functional.silu(functional.linear(inputs, frozen)) + functional.linear(
                functional.linear(inputs, a), b
            )
            loss = functional.mse_loss(y.float(), target_tensor)
        loss.backward()  # type: ignore[no-untyped-call]
        assert a.grad is not None
        assert b.grad is not None
        return [a.grad, b.grad]

    cpu_gradients = gradients("cpu", None)
    for actual, expected in zip(gradients(device, dtype), cpu_gradients, strict=True):
        if problem := _difference(actual, expected):
            return problem
    return ""


def _check_scaler(device: str, dtype: torch.dtype) -> str:
    weight = torch.ones(4, device=device, requires_grad=True)
    optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.0)
    scaler = torch.amp.GradScaler(device, init_scale=1024.0)
    for loss, should_move in (((weight * 2).sum(), True), ((weight * float("inf")).sum(), False)):
        before = weight.detach().clone()
        optimizer.zero_grad()
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()
        moved = not torch.equal(before, weight.detach())
        if moved is not should_move:
            return "a step was skipped" if should_move else "a step that overflowed was applied"
    return ""


SelfTestCheck = Callable[[str, torch.dtype], str]
CHECKS: dict[str, SelfTestCheck] = {
    "half-precision products": _check_products,
    "causal attention": _check_causal_attention,
    "attention while decoding": _check_decoding_attention,
    "sampling": _check_sampling,
    "gradients": _check_gradients,
    "gradient scaler": _check_scaler,
}
"""The checks by name; each returns the problem, or an empty string."""
