"""The planned memory of a run: its phases, where it is kept, what is said of it, and what the wizard chooses by it."""

from __future__ import annotations

import dataclasses
import json
import os

import pytest
import torch

from dreambooth.memory.forecast import ModelSize
from dreambooth.memory.planner import OVERHEAD, MemoryPlan
from dreambooth.models.sd.sd1 import SD1
from dreambooth.models.sd.sdxl import SDXL
from dreambooth.runs import memory_need, memory_plan, presets
from dreambooth.runs.memory_need import GpuMemory, memory_taken, memory_warnings
from dreambooth.runs.memory_plan import MemoryRequest, Scenario, known_plan, plan_memory
from dreambooth.settings import Folders, ModelFolder, Settings
from tests import mini_models

GB = 10**9
LORA = {"use_lora": True, "stop_text_encoder": 0.0, "resolution": 64, "mixed_precision": "bf16"}
PLAN = MemoryPlan({"backward": 6 * GB, "decoding": 9 * GB, "saving": 5 * GB})


@pytest.fixture
def request_of(mini: ModelFolder):
    def request(**settings: object) -> MemoryRequest:
        return MemoryRequest(mini, Settings(**{**LORA, **settings}), Scenario("bf16", (64, 64)), 8 * GB)

    return request


def test_a_plan_is_made_by_another_process_and_kept(request_of, monkeypatch):
    request = request_of(channels_last=True)
    environment, dispatches = dict(os.environ), torch.nn.Module._apply
    assert known_plan(request) is None
    plan = plan_memory(request)
    assert plan and not plan.is_estimate
    phases = plan.phases
    assert {"latents", "text embeddings", "loading", "forward", "backward", "optimizer", "sampling", "decoding",
            "saving"} == phases.keys()  # fmt: skip
    assert phases["backward"] > phases["loading"] > 0 and phases["decoding"] > phases["saving"]
    assert (dict(os.environ), torch.nn.Module._apply) == (environment, dispatches), "this process is as it was"

    monkeypatch.setattr(memory_plan, "_plan_in_process", lambda request: pytest.fail("planned twice"))
    monkeypatch.setattr(memory_plan, "_plans", memory_plan.PlanCache())  # as in another process
    without_effect = {"learning_rate": 1e-3, "torch_compile": True, "allow_tf32": True, "cudnn_benchmark": True}
    assert known_plan(request) == plan_memory(request_of(channels_last=True, **without_effect)) == plan
    for other in (request_of(train_batch_size=4), dataclasses.replace(request, memory=6 * GB)):
        assert known_plan(other) is None
    saved = json.loads(request.cache_file.read_text(encoding="utf-8"))
    request.cache_file.write_text('{"broken": 1', encoding="utf-8")
    monkeypatch.setattr(memory_plan, "_plans", memory_plan.PlanCache())
    assert known_plan(request) is None and len(saved) == 1


def test_where_tracing_fails_there_is_no_plan_and_it_is_not_tried_again(request_of, monkeypatch):
    monkeypatch.setattr(memory_plan.sys, "executable", "no-such-program")
    tried = []
    plan_in_process = memory_plan._plan_in_process
    monkeypatch.setattr(memory_plan, "_plan_in_process", lambda r: tried.append(r) or plan_in_process(r))
    request = request_of(lora_unet_rank=3)
    assert plan_memory(request) is None and plan_memory(request) is None and len(tried) == 1


def test_the_highest_phase_is_compared_with_the_memory_that_is_free(monkeypatch):
    assert (PLAN.highest, PLAN.bytes, PLAN.needed) == ("decoding", 9 * GB, 9 * GB + OVERHEAD)
    assert PLAN.summary() == "9.0 GB, the most in decoding a preview"
    assert "estimate" in MemoryPlan({"training": GB}, is_estimate=True).summary()
    assert memory_warnings(PLAN, None) == memory_warnings(PLAN, GpuMemory(12 * GB, 11 * GB)) == []
    (too_small,) = memory_warnings(PLAN, GpuMemory(8 * GB, 8 * GB))
    assert "decoding a preview" in too_small and "8.0 GB" in too_small and "n_save_sample" in too_small
    (taken,) = memory_warnings(PLAN, GpuMemory(12 * GB, 7 * GB))
    assert "7.0 GB of the GPU's 12.0 GB are free: close other programs" in taken

    def free(n_bytes: int) -> str:
        monkeypatch.setattr(memory_need, "gpu_memory", lambda device: GpuMemory(12 * GB, n_bytes))
        return memory_taken(PLAN, torch.device("cuda"))

    assert free(11 * GB) == "" and "another program" in free(7 * GB).lower()


def test_memory_that_this_process_has_reserved_counts_as_free(monkeypatch):
    """A WebUI's model makes room for a run."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * GB, 12 * GB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 5 * GB)
    assert memory_need.gpu_memory(torch.device("cuda")) == GpuMemory(12 * GB, 7 * GB)
    assert memory_need.gpu_memory(torch.device("cpu")) is None


def test_measured_peaks_are_beside_the_forecast():
    plan = MemoryPlan(
        {"latents": 9 * GB, "forward": 5 * GB, "backward": 6 * GB, "sampling": 7 * GB, "decoding": 8 * GB}
    )
    text = memory_need.peaks_text({"training": 6 * GB, "preview": 8 * GB}, plan)
    assert text == "Peak GPU memory: training 6.0 GB (forecast 6.0 GB), preview 8.0 GB (forecast 8.0 GB)."
    assert memory_need.peaks_text({}, plan) == ""
    assert "(forecast" not in memory_need.peaks_text({"training": GB}, None)


@pytest.fixture
def wizard(monkeypatch):
    monkeypatch.setattr(presets, "resolve_precision", lambda settings, device: "bf16")
    monkeypatch.setattr(presets, "unavailable_reason", lambda name, device: "")

    def recommend(family, n_gb: float, model: ModelFolder | None = None) -> presets.Recommendation:
        monkeypatch.setattr(presets, "gpu_memory", lambda device: GpuMemory(int(n_gb * GB), int((n_gb - 0.3) * GB)))
        denoiser, text_encoders, side = family.usual_size
        size = ModelSize(denoiser, text_encoders, family.size_estimate(denoiser))
        settings = Settings(stop_text_encoder=0.0, resolution=side)
        return presets.for_machine(settings, torch.device("cuda"), family, size, False, model)

    return recommend


def test_the_wizard_chooses_by_the_memory_of_the_card(wizard):
    def chosen(family, n_gb: float) -> tuple[object, ...]:
        changes = wizard(family, n_gb).changes
        keys = ("use_lora", "fused_backward", "full_mixed_precision", "optimizer", "base_precision", "use_ema")
        return tuple(changes.get(key) for key in keys)

    adamw = "Torch AdamW"
    assert chosen(SD1, 24) == (False, False, False, adamw, "full", True)
    assert chosen(SD1, 16) == (False, False, False, adamw, "full", True)
    assert wizard(SD1, 16).changes["ema_on_cpu"] and not wizard(SD1, 24).changes["ema_on_cpu"]
    assert chosen(SD1, 12) == (False, True, False, adamw, "full", False)
    assert chosen(SD1, 8) == (False, True, False, "8bit AdamW", "full", False)
    assert chosen(SDXL, 24) == (False, True, False, "8bit AdamW", "full", False)
    for family, n_gb in ((SD1, 6), (SDXL, 16), (SDXL, 12), (SDXL, 8)):
        assert chosen(family, n_gb) == (True, False, False, adamw, "full", False), "not bf16 with approximated moments"
    assert chosen(SDXL, 6) == (True, False, False, adamw, "int8", False)
    assert [wizard(SDXL, n_gb).changes["offload_fraction"] for n_gb in (6, 4)] == [0.0, 1.0]


def test_where_nothing_fits_the_wizard_says_what_would(wizard):
    nothing = wizard(SDXL, 2)
    assert nothing.changes == {"mixed_precision": "auto"}
    assert nothing.reasons[-1].startswith(f"Nothing fits: {SDXL.title} at 1024 px needs at least")
    assert f"What would fit: {SD1.title} (LoRA at 512 px)" in nothing.reasons[-1]
    assert "Train on another GPU" in wizard(SD1, 1).reasons[-1]


def test_the_wizard_confirms_its_choice_by_a_plan(wizard, monkeypatch, models_dir):
    """The formula knows no previews: where they don't fit, the next configuration is chosen."""
    planned = []

    def plan(request: MemoryRequest) -> MemoryPlan:
        planned.append(request.settings)
        return MemoryPlan({"decoding": 50 * GB if request.settings.use_ema else GB})

    monkeypatch.setattr(presets, "plan_memory", plan)
    model = mini_models.create(Folders(models_dir), "tiny", "v1x")
    recommendation = wizard(SD1, 24, model)
    assert not recommendation.changes["use_ema"] and len(planned) > 1
    assert "decoding a preview" in recommendation.reasons[-1]
