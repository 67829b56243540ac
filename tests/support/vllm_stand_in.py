"""Stand-ins for vLLM: a server that speaks the protocol of TRL's client, and an engine for colocate mode.

Both draw with transformers from a model of their own, whose weights change only by what the trainer sends.
A queue takes the place of NCCL, which needs GPUs; everything else of TRL's code runs as it is.
"""

from __future__ import annotations

import contextlib
import json
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from ida_tui.config import embedded

STARTED_AS_TRL_NEEDS = {
    "weight_transfer_config": {"backend": "nccl"},
    "model_config": {"logprobs_mode": "processed_logprobs"},
}


def load_model(folder: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def draw(model: Any, prompt: list[int], n: int, settings: Mapping[str, Any]) -> list[Any]:
    """Pairs of token ids and log-probabilities of n completions; an end token is the last one."""
    ids = torch.tensor([prompt] * n)
    eos = model.generation_config.eos_token_id
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=True,
        temperature=settings["temperature"],
        top_k=0,
        top_p=1.0,
        max_new_tokens=settings["max_tokens"],
        return_dict_in_generate=True,
        output_logits=True,
        pad_token_id=model.generation_config.pad_token_id,
    )
    logprobs = torch.stack(output.logits, dim=1).div(settings["temperature"]).log_softmax(-1)
    rows = []
    for tokens, row in zip(output.sequences[:, len(prompt) :].tolist(), logprobs, strict=True):
        ends = [
            i for i, token in enumerate(tokens) if token in ([eos] if type(eos) is int else eos)
        ]
        tokens = tokens[: ends[0] + 1] if ends else tokens
        rows.append((tokens, row[range(len(tokens)), tokens].tolist()))
    return rows


def load_weights(model: Any, weights: Iterator[tuple[str, torch.Tensor]]) -> None:
    """As vLLM: every tensor must be known, under the base model's own name."""
    parameters = dict(model.named_parameters())
    for name, weight in weights:
        parameters[name].data.copy_(weight)


@dataclass
class VLLMServer:
    """A server on loopback; `settings` is what it says about how it was started."""

    settings: Mapping[str, Any] | None = field(default_factory=lambda: STARTED_AS_TRL_NEEDS)
    forgets: bool = False
    """Whether it ignores the weights that it gets."""
    during: Callable[[str], None] = lambda path: None
    """Called with the path of every request, before it is answered."""
    paths: list[str] = field(default_factory=list)
    sent: queue.Queue[list[tuple[str, torch.Tensor]]] = field(default_factory=queue.Queue)
    url: str = ""

    def __enter__(self) -> VLLMServer:
        self.model = load_model(str(embedded.model_folder()))
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                self._reply(owner.answer(self.path, {}))

            def do_POST(self) -> None:
                text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self._reply(owner.answer(self.path, json.loads(text or b"{}")))

            def _reply(self, body: Any) -> None:
                data = json.dumps(body).encode()
                self.send_response(404 if body is None else 200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, path: str, body: Mapping[str, Any]) -> Any:
        """The answer to a request; None is not found."""
        path = path.partition("?")[0]
        self.paths.append(path)
        self.during(path)
        if path == "/v1/completions":
            return {"choices": list(self._choices(body))}
        if path == "/update_weights":
            weights = self.sent.get(timeout=60)
            info = body["update_info"]
            assert [name for name, _ in weights] == info["names"]
            assert [list(weight.shape) for _, weight in weights] == info["shapes"]
            if not self.forgets:
                load_weights(self.model, iter(weights))
        if path == "/server_info":
            return self.settings and {"vllm_config": self.settings}
        return {
            "/v1/models": {"data": [{"id": "stand-in"}]},
            "/get_world_size": {"world_size": 1},
            "/reset_prefix_cache": {"success": True},
        }.get(path, {})

    def _choices(self, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        for prompt in body["prompt"]:
            for tokens, logprobs in draw(self.model, prompt, body["n"], body):
                names = [f"token_id:{token}" for token in tokens]
                yield {
                    "prompt_token_ids": prompt,
                    "token_ids": tokens,
                    "logprobs": {
                        "tokens": names,
                        "token_logprobs": logprobs,
                        "top_logprobs": [
                            {name: value} for name, value in zip(names, logprobs, strict=True)
                        ],
                    },
                }


class LLM:
    """vLLM's engine in the training process, with its sleep: level 2 throws the weights away."""

    made: list[LLM] = []  # noqa: RUF012 - reset for each test
    during: Callable[[LLM], None] = staticmethod(lambda engine: None)
    """Called before each of the engine's steps."""

    def __init__(self, model: str, **settings: Any) -> None:
        self.model, self.settings = load_model(model), settings
        self.calls: list[str] = []
        self.is_mapped = self.has_cache = True
        runner = SimpleNamespace(model=SimpleNamespace(load_weights=self._load))
        worker = SimpleNamespace(model_runner=runner)
        executor = SimpleNamespace(driver_worker=worker)
        self.llm_engine = SimpleNamespace(model_executor=executor, step=self._step)
        LLM.made.append(self)

    def _load(self, weights: list[tuple[str, torch.Tensor]]) -> None:
        assert self.is_mapped, "weights are sent to an engine that sleeps"
        load_weights(self.model, iter(weights))

    def sleep(self, level: int) -> None:
        self.calls.append("sleep")
        self.is_mapped = self.has_cache = False
        for parameter in self.model.parameters():
            parameter.data.fill_(torch.nan)

    def wake_up(self, tags: list[str]) -> None:
        self.calls.append(f"wake {tags[0]}")
        self.is_mapped, self.has_cache = True, self.has_cache or tags == ["kv_cache"]

    def reset_prefix_cache(self) -> None:
        self.calls.append("reset")

    def generate(self, prompts: list[Any], sampling_params: Any, use_tqdm: bool) -> list[Any]:
        assert self.is_mapped
        assert self.has_cache, "an engine that sleeps is asked for completions"
        self.calls.append("generate")
        self.settings_of_draw = vars(sampling_params)
        self.waiting, self.outputs = [prompt["prompt_token_ids"] for prompt in prompts], []
        while self.waiting:
            LLM.during(self)
            self.llm_engine.step()
        return self.outputs

    def _step(self) -> None:
        """Draw one completion; vLLM draws a token of each."""
        prompt = self.waiting.pop(0)
        [(tokens, logprobs)] = draw(self.model, prompt, 1, self.settings_of_draw)
        entries = [
            {token: SimpleNamespace(rank=1, logprob=value)}
            for token, value in zip(tokens, logprobs, strict=True)
        ]
        completion = SimpleNamespace(token_ids=tokens, logprobs=entries)
        self.outputs.append(SimpleNamespace(prompt_token_ids=prompt, outputs=[completion]))


@contextlib.contextmanager
def vllm_stand_in(server: VLLMServer | None = None) -> Iterator[None]:
    """Inside the block, vLLM counts as installed, and the training may run on the CPU."""
    from trl.generation import vllm_client, vllm_generation

    from ida_tui.engine.run import preflight

    def send(iterator: Any, **_: Any) -> None:
        assert server is not None
        server.sent.put([(name, weight.clone()) for name, weight in iterator])

    def connect(client: Any, device: Any) -> None:
        client._post(f"{client.base_url}/init_weight_transfer_engine", json={"init_info": {}})

    with pytest.MonkeyPatch.context() as patch:
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            patch.setenv(name, "")
            patch.delenv(name)  # TRL sets them in colocate mode
        patch.setenv("TORCHDYNAMO_DISABLE", "1")
        patch.setattr(LLM, "made", [])
        patch.setattr(preflight, "VLLM_DEVICES", ("cpu",))
        patch.setattr(preflight, "require_vllm_installed", lambda: None)
        patch.setattr(vllm_generation, "is_vllm_available", lambda: True)
        patch.setattr(vllm_generation, "LLM", LLM, raising=False)
        patch.setattr(vllm_generation, "SamplingParams", SimpleNamespace, raising=False)
        patch.setattr(vllm_generation, "empty_cache", lambda: None)
        patch.setattr(vllm_client, "is_vllm_available", lambda: True)
        patch.setattr(vllm_client, "_HAS_STATEFUL_TRAINER_ENGINE", True)
        patch.setattr(vllm_client, "_HAS_RESET_PREFIX_CACHE_SUCCESS", True)
        patch.setattr(vllm_client, "packed_nccl_broadcast_producer", send, raising=False)
        patch.setattr(vllm_client.VLLMClient, "init_communicator", connect)
        yield
