"""Preflight checks for runs that generate with vLLM through TRL.

vLLM needs CUDA. This code follows TRL's documentation and has not been tested with vLLM yet.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from importlib.util import find_spec

from ida_tui.config.schema import Config, DeviceName
from ida_tui.errors import ExitCode, IdaError, UsageError

VLLM_INSTALL = (
    "uv pip install 'vllm>=0.22,<=0.31'   (the versions TRL supports; installs an older torch)"
)
"""Not an extra of ida-tui: these versions pin torch 2.11 or 2.13, which ida-tui is not tested with."""
VLLM_SERVE = (
    'VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --weight-transfer-config \'{"backend": "nccl"}\''
    " --logprobs-mode processed_logprobs --max-logprobs -1"
)
"""Command that starts a vLLM server as TRL requires it."""
HEALTH_TIMEOUT_S = 5.0
"""Timeout of the server's health check."""


def require_vllm(config: Config, device: DeviceName) -> None:
    """Check that a profile with ``training.use_vllm`` can generate.

    Raises:
        IdaError: the device is not CUDA (exit code 5), vLLM is not installed, or its server does not respond.
    """
    training = config.training
    if not training.use_vllm:
        return
    if device != "cuda":
        raise IdaError(
            f"training.use_vllm needs a CUDA GPU, but this run uses {device}",
            "set training.use_vllm=false to generate with ida-tui's own engine, which runs on any device",
            where="training.use_vllm",
            code=ExitCode.DEVICE_UNUSABLE,
        )
    require_vllm_installed()
    if training.vllm_mode == "server":
        require_vllm_server(training.vllm_server_base_url)


def require_vllm_installed() -> None:
    """Check that vLLM is installed.

    Raises:
        UsageError: vLLM is not installed.
    """
    spec = find_spec("vllm")
    if spec is None or spec.origin is None:
        raise UsageError(
            "training.use_vllm needs vLLM, which is not installed",
            f"{VLLM_INSTALL}\nor set training.use_vllm=false",
            where="training.use_vllm",
        )


def require_vllm_server(url: str) -> None:
    """Check that the vLLM server responds.

    Raises:
        IdaError: the server does not respond, or responds with an error.
    """
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=HEALTH_TIMEOUT_S):
            return
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise IdaError(
            f"no vLLM server responds at {url}: {' '.join(str(reason).split())[:200]}",
            f"start a server on other GPUs: {VLLM_SERVE}\n"
            "and set training.vllm_server_base_url; or set training.vllm_mode=colocate (no server)",
            where="training.vllm_server_base_url",
        ) from None
