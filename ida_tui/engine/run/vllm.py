"""Rollouts sampled by vLLM, through TRL: what has to be there before a run may start.

Written from TRL's documentation; vLLM needs CUDA, and this has not been run with it yet.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from importlib.util import find_spec

from ida_tui.config.schema import Config, DeviceName
from ida_tui.errors import ExitCode, IdaError, UsageError

INSTALL = (
    "uv pip install 'vllm>=0.22,<=0.31'   (what TRL works with; it brings an older torch with it)"
)
"""No extra of ida-tui: these versions pin torch 2.11 or 2.13, which the rest is not tested with."""
SERVE = (
    'VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --weight-transfer-config \'{"backend": "nccl"}\''
    " --logprobs-mode processed_logprobs --max-logprobs -1"
)
"""How TRL wants its server started."""
LOOK_S = 5.0
"""How long a server may take to say that it is there."""


def require(config: Config, device: DeviceName) -> None:
    """Refuse a profile with ``training.use_vllm`` that could not sample.

    Raises:
        IdaError: there is no CUDA device (exit code 5), vLLM is not installed, or its server does not answer.
    """
    training = config.training
    if not training.use_vllm:
        return
    if device != "cuda":
        raise IdaError(
            f"training.use_vllm needs a CUDA GPU, and this run is on {device}",
            "training.use_vllm=false samples with ida-tui's own engine, on any device",
            where="training.use_vllm",
            code=ExitCode.DEVICE_UNUSABLE,
        )
    require_installed()
    if training.vllm_mode == "server":
        require_server(training.vllm_server_base_url)


def require_installed() -> None:
    """Refuse to go on without vLLM.

    Raises:
        UsageError: it is not installed.
    """
    found = find_spec("vllm")
    if found is None or found.origin is None:
        raise UsageError(
            "training.use_vllm needs vLLM, which is not installed",
            f"{INSTALL}\nor training.use_vllm=false",
            where="training.use_vllm",
        )


def require_server(url: str) -> None:
    """Refuse to go on without an answer of vLLM's server.

    Raises:
        IdaError: nothing answers, or with an error.
    """
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=LOOK_S):
            return
    except (urllib.error.URLError, OSError, ValueError) as error:
        why = getattr(error, "reason", None) or error
        raise IdaError(
            f"no vLLM server answers at {url}: {' '.join(str(why).split())[:200]}",
            f"start one on other GPUs: {SERVE}\n"
            "training.vllm_server_base_url says where it is, training.vllm_mode=colocate needs none",
            where="training.vllm_server_base_url",
        ) from None
