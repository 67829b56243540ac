"""Several processes that each hold a part of the weights (FSDP2), on the CPU over gloo."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.distributed import DistributedConfig
from transformers.distributed.utils import initialize_distributed_mesh

from ida_tui.config import embedded
from ida_tui.config.resolve import resolve
from ida_tui.config.training_checks.sharding import check_sharding
from ida_tui.engine.distributed.environment import ProcessInfo, sharding_backend
from ida_tui.engine.run import preflight
from ida_tui.errors import ExitCode, UsageError
from ida_tui.planning import memory
from tests.conftest import IdaTui
from tests.support.judge_server import Gate, ScriptedJudge
from tests.support.launched import (
    MODEL,
    completion_texts,
    events_of_type,
    latest,
    offline_scores,
    processes,
    read_events,
    relative_distance,
    step,
)  # fmt: skip

STEP_CALLS = 24
RUN = (
    "quickstart", "engine=plain", "training.method=full", "training.max_steps=2",
    f"training.per_device_train_batch_size={STEP_CALLS}", "training.max_completion_length=16",
    "evaluation.samples=1", "evaluation.batch_size=30", "evaluation.everyday=2",
)  # fmt: skip
SHARDED = "training.sharding=fsdp"


def test_shards_are_trained_evaluated_saved_and_resumed_like_a_whole_model(ida_tui: IdaTui) -> None:
    here = Path.cwd()
    single = ida_tui("--run", *RUN, "output_dir=single", "--json")
    assert single.code == 0, single.err
    with (
        ScriptedJudge(rule=Gate(STEP_CALLS, offline_scores)) as judge,
        processes("run", *RUN, SHARDED, *judge.overrides, "--json", folder=here) as launcher,
    ):
        first = read_events(launcher, step(1))
        launcher.send_signal(signal.SIGTERM)
        stopped = read_events(launcher)[-1]
    assert (stopped["exit_code"], stopped["steps_done"]) == (ExitCode.INTERRUPTED, 1)
    assert "checkpoint-1" in stopped["hint"]

    with processes(
        "resume", "quickstart", "judge=offline", "--json", folder=here, number=3
    ) as launcher:
        rest = read_events(launcher)
        assert launcher.wait() == 0, (here / "stderr.txt").read_text()
    assert completion_texts(first) | completion_texts(rest) == completion_texts(single.events)
    expected = (here / "single" / "quickstart" / "latest").resolve()
    assert relative_distance(expected, latest(here), MODEL) < 1e-4
    assert json.loads((latest(here) / "model" / "config.json").read_text()).keys() == (
        json.loads((expected / "model" / "config.json").read_text()).keys()
    )
    for evaluation, other in zip(
        events_of_type([*first, *rest], "EvaluationFinished"),
        events_of_type(single.events, "EvaluationFinished"),
        strict=True,
    ):
        for figure in ("when", "harmless_complied", "unsafe_refused"):
            assert evaluation[figure] == other[figure]
    assert rest[-1]["model_change"] == pytest.approx(single.events[-1]["model_change"], rel=1e-4)


# --- the launcher's configuration, and what is refused ------------------------------------------


def test_the_launchers_fsdp_shards_the_model_and_the_run_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    config = resolve("quickstart", ["engine=plain"]).config
    sharded, note = preflight.apply_launcher_sharding(config, "cpu", ProcessInfo(0, 2, 0, 2))
    assert sharded.training.sharding == "fsdp"
    assert "accelerate alone would leave FSDP out on a CPU" in note
    assert not sharding_backend(), "accelerate would shard the model again"


def test_a_single_process_says_that_it_shards_nothing() -> None:
    config = resolve("quickstart", ["engine=plain", SHARDED]).config
    _, note = preflight.apply_launcher_sharding(config, "cpu", ProcessInfo())
    assert note == "a single process holds the whole model: nothing is sharded"


def test_the_fast_engine_is_refused_with_the_launchers_fsdp(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    with pytest.raises(UsageError, match="reads the weights of whole layers") as refused:
        preflight.apply_launcher_sharding(
            resolve("quickstart").config, "cpu", ProcessInfo(0, 2, 0, 2)
        )
    assert "set engine to plain" in refused.value.hint


@pytest.mark.parametrize(
    "setting",
    ["model.quantization=nf4", "training.fp16=true", "training={method: full, beta: 0.1}",
     "lora.use_dora=true", "lora.modules_to_save=[lm_head]"],
)  # fmt: skip
def test_what_needs_whole_weights_cannot_be_sharded(setting: str) -> None:
    overrides = ["engine=plain", SHARDED, setting]
    found = list(check_sharding(resolve("quickstart", overrides, verify=False).config, "cpu"))
    assert len(found) == 1
    assert found[0].fix.endswith("set sharding to none")


# --- memory ---------------------------------------------------------------------------------------


@pytest.fixture
def four_simulated_processes() -> Iterator[None]:
    """A process group of four without processes, whose tensors can be on the meta device."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    environment = dict(os.environ)
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    yield
    dist.destroy_process_group()
    os.environ.clear()
    os.environ.update(environment)


@pytest.mark.usefixtures("four_simulated_processes")
def test_the_plan_of_a_process_is_that_of_its_shards(tmp_path: Path) -> None:
    settings = json.loads((embedded.model_folder() / "config.json").read_text())
    settings |= {
        "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 12, "head_dim": 128,
        "num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 32_000,
    }  # fmt: skip
    settings.pop("layer_types", None)
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(tmp_path), dtype=torch.float32
        )
    sharding = DistributedConfig(fsdp_size=4)
    _, mesh = initialize_distributed_mesh(sharding)
    model = type(model).maybe_distribute_model(model, sharding, mesh)
    whole_bytes = sum(4 * p.numel() for p in model.parameters())
    part_bytes = sum(4 * p.to_local().numel() for p in model.parameters() if isinstance(p, DTensor))
    assert 2.5e9 < whole_bytes < 3.5e9

    overrides = [
        f"model.path={tmp_path}", "model.parameters=null", "engine=plain", SHARDED,
        "training.method=full", "model.torch_dtype=float32",
    ]  # fmt: skip
    planned = memory.plan(resolve("quickstart", overrides, verify=False).config, "cpu", processes=4)
    assert planned is not None
    assert planned.item_bytes("policy") == pytest.approx(part_bytes, rel=0.15)
    assert planned.item_bytes("gradients") == pytest.approx(part_bytes, rel=0.15)
    assert planned.item_bytes("optimizer") == pytest.approx(2 * part_bytes, rel=0.15)
    layers = [sum(4 * p.numel() for p in layer.parameters()) for layer in model.model.layers]
    gathered = 2 * layers[0] + 4 * model.get_input_embeddings().weight.numel()
    assert planned.item_bytes("gathered layers") == pytest.approx(gathered, rel=0.15)
