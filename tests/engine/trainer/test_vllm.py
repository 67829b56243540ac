"""Runs whose completions a stand-in for vLLM draws, on a server on loopback or in the training process."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ida_tui.cli.output import printer
from ida_tui.config import embedded
from ida_tui.config.resolve import resolve
from ida_tui.engine.distributed.environment import ProcessInfo
from ida_tui.engine.run import preflight
from ida_tui.engine.trainer import vllm
from ida_tui.errors import ExitCode, IdaError, UsageError
from ida_tui.planning import memory, vllm_memory
from tests.conftest import IdaTui
from tests.engine.trainer.test_agreement import SHORT, run
from tests.support.vllm_stand_in import LLM, STARTED_AS_TRL_NEEDS, VLLMServer, vllm_stand_in

VLLM = ("training.use_vllm=true", "training.max_steps=2", "training.learning_rate=0.01")
SERVER = (*VLLM, "training.vllm_mode=server")
ROUNDING = 1e-9
"""The stand-in computes with the same numbers: what is left of the KL divergence is rounding."""


@pytest.mark.parametrize("engine", ["fast", "plain"])
def test_a_server_draws_with_the_weights_of_every_step(engine: str, ida_tui_here: IdaTui) -> None:
    with VLLMServer() as server, vllm_stand_in(server):
        url = f"training.vllm_server_base_url={server.url}"
        steps, warnings = run(ida_tui_here, *SERVER, url, f"engine={engine}")
    assert not warnings
    assert [step["step"] for step in steps] == [1, 2]
    for step in steps:
        assert step["grad_norm"] > 0
        assert step["sampling_ratio"] == pytest.approx(1, abs=1e-5)
        assert step["sampling_kl"] < ROUNDING
        assert step["sampling_clipped"] == 0
    assert server.paths.count("/update_weights") == server.paths.count("/v1/completions") == 2


def test_old_weights_show_in_the_figures_and_a_stop_is_heard_before_the_next_drawing(
    ida_tui_here: IdaTui, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ignores what it gets; the stop arrives while it takes the weights of the third step."""
    handlers = collect_stops(monkeypatch)

    def stop_at_third_update(path: str) -> None:
        if path == "/update_weights" and server.paths.count(path) == 3:
            handlers[0]()

    with VLLMServer(forgets=True, during=stop_at_third_update) as server, vllm_stand_in(server):
        url = f"training.vllm_server_base_url={server.url}"
        stopped = ida_tui_here("--run", *SHORT, *SERVER, url, "training.max_steps=4", "--json")
    assert stopped.code == ExitCode.INTERRUPTED, stopped.err
    assert stopped.events[-1]["steps_done"] == 2
    assert server.paths.count("/v1/completions") == 2
    divergences = [e["sampling_kl"] for e in stopped.events if e["type"] == "StepFinished"]
    assert divergences[0] < ROUNDING
    assert divergences[1] > 1e-4


def collect_stops(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A list that gets the function which stops the run, once it has started."""
    from ida_tui.cli import train

    stops: list[Any] = []
    original = train._SignalHandlers

    def handlers(session: Any, out: printer.Printer) -> Any:
        stops.append(session.request_stop)
        return original(session, out)

    monkeypatch.setattr(train, "_SignalHandlers", handlers)
    return stops


def test_an_engine_in_this_process_sleeps_during_the_update_and_stops_after_any_token(
    ida_tui_here: IdaTui, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stop arrives after the first completion of the third step."""
    stops = collect_stops(monkeypatch)

    def stop_in_third_rollout(engine: LLM) -> None:
        if engine.calls.count("generate") == 3 and len(engine.outputs) == 1:
            stops[0]()

    with vllm_stand_in():
        monkeypatch.setattr(LLM, "during", stop_in_third_rollout)
        arguments = (*VLLM, "training.max_steps=4", "training.vllm_enable_sleep_mode=true")
        stopped = ida_tui_here("--run", *SHORT, *arguments, "--json")
        [engine] = LLM.made
    assert stopped.code == ExitCode.INTERRUPTED, stopped.err
    assert stopped.events[-1]["steps_done"] == 2
    assert len(engine.outputs) == 1
    divergences = [e["sampling_kl"] for e in stopped.events if e["type"] == "StepFinished"]
    assert len(divergences) == 2
    assert max(divergences) < ROUNDING
    assert engine.settings["enable_sleep_mode"]
    assert engine.settings["gpu_memory_utilization"] == 0.3
    rollout = ["wake weights", "reset", "wake kv_cache", "generate"]
    assert engine.calls == ["sleep", *rollout, "sleep", *rollout, "sleep", *rollout]


def test_merged_copies_are_those_of_peft_and_leave_the_base_model_alone() -> None:
    from peft import LoraConfig, get_peft_model

    from tests.support.vllm_stand_in import load_model

    torch.manual_seed(0)
    model = load_model(str(embedded.model_folder())).to(torch.bfloat16)
    names = [name for name, _ in model.named_parameters()]
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    before = {name: parameter.clone() for name, parameter in adapted.named_parameters()}
    assert vllm.can_merge_copies(adapted)
    copies = dict(vllm.merged_weights(adapted))
    assert list(copies) == names
    assert all(parameter.equal(before[name]) for name, parameter in adapted.named_parameters())
    merged = dict(adapted.merge_and_unload().named_parameters())
    assert all(copies[name].equal(merged[name]) for name in names)
    dora = LoraConfig(r=4, target_modules=["q_proj"], use_dora=True)
    fresh = load_model(str(embedded.model_folder()))
    assert not vllm.can_merge_copies(fresh)
    assert not vllm.can_merge_copies(get_peft_model(fresh, dora))


# --- checks before a run -------------------------------------------------------------------------


def test_the_preview_says_that_vllm_draws_and_is_not_installed_here(ida_tui_here: IdaTui) -> None:
    shown = ida_tui_here("--check", "quickstart", *SERVER, "device=cuda")
    assert shown.code == 0, shown.err
    assert "temperature 1, by vLLM (server)" in shown.out
    assert "vLLM is not installed on this machine" in " ".join(shown.out.split())


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (None, "does not say how it was started .*, so TRL cannot send it weights"),
        ({**STARTED_AS_TRL_NEEDS, "weight_transfer_config": None}, "takes no weights"),
        (
            {**STARTED_AS_TRL_NEEDS, "model_config": {"logprobs_mode": "raw_logprobs"}},
            "returns raw_logprobs, with which the correction of the loss is wrong",
        ),
    ],
)
def test_a_server_that_was_started_otherwise_is_refused(settings: Any, problem: str) -> None:
    with VLLMServer(settings=settings) as server:
        with pytest.raises(IdaError, match=problem) as refused:
            preflight.require_vllm_server(server.url)
        assert "VLLM_SERVER_DEV_MODE=1 vllm serve MODEL" in refused.value.hint
        if settings and settings["weight_transfer_config"]:
            preflight.require_vllm_server(server.url, corrects=False)


def test_the_gpus_of_an_engine_must_divide_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    config = resolve("quickstart", [*VLLM, "training.vllm_tensor_parallel_size=2"]).config
    monkeypatch.setattr(preflight, "require_vllm_installed", lambda: None)
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    preflight.require_vllm(config, "cuda", ProcessInfo(0, 4, 0, 4))
    with pytest.raises(
        UsageError, match="cannot split the model across 2 GPUs: the run has 3 proc"
    ):
        preflight.require_vllm(config, "cuda", ProcessInfo(0, 3, 0, 3))


def test_the_plan_has_the_share_of_the_gpu_that_an_engine_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vllm_memory, "gpu_memory_bytes", lambda: 80e9)
    config = resolve("quickstart", ["training.use_vllm=true"]).config
    planned = memory.plan(config, "cuda")
    assert planned is not None
    assert ("vLLM", "always", 24_000_000_000) in planned.as_rows()
    assert not any(
        name == "KV cache" and phase == "sampling" for name, phase, _ in planned.as_rows()
    )
    assert "training.vllm_enable_sleep_mode=true" in [
        option.overrides for option in memory.reductions(config, "cuda")
    ]
    asleep = resolve(
        "quickstart", ["training.use_vllm=true", "training.vllm_enable_sleep_mode=true"]
    )
    sleeping = memory.plan(asleep.config, "cuda")
    assert sleeping is not None
    assert sleeping.phase_bytes("update") < 2e9 < 24e9 < sleeping.phase_bytes("sampling")
    server = memory.plan(resolve("quickstart", list(SERVER)).config, "cuda")
    assert server is not None
    assert server.item_bytes("vLLM") == 0

    monkeypatch.setattr(vllm_memory, "gpu_memory_bytes", lambda: None)
    unknown = memory.plan(config, "cuda")
    assert unknown is not None
    assert 0 < unknown.item_bytes("vLLM") < 20e6
