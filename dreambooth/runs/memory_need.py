"""What a run needs of the GPU's memory, beside what is free: for the check, the page and the start of a run."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from dreambooth.dataset.plan import Plan
from dreambooth.memory.forecast import ModelSize, forecast_memory
from dreambooth.memory.planner import OVERHEAD, MemoryPlan
from dreambooth.runs.memory_plan import MemoryRequest, Scenario, can_be_planned, known_plan, plan_memory
from dreambooth.settings import ModelFolder, Settings
from dreambooth.text import format_bytes

# What helps where a phase is the highest.
_ADVICE = {
    "class images": "lower sample_batch_size or the resolution",
    "sampling": "lower the resolution, or generate no previews (n_save_sample = 0)",
    "decoding": "lower the resolution, or generate no previews (n_save_sample = 0)",
    "EMA": "keep the EMA on the CPU (ema_on_cpu)",
    "latents": "lower the resolution",
}
# Phases of a plan by what is measured in a run.
_MEASURED = {
    "training": ("training", "forward", "backward", "optimizer", "EMA"), "preview": ("sampling", "decoding"),
}  # fmt: skip
_OF_TRAINING = "train a LoRA, lower the batch size or the resolution, or switch on gradient checkpointing"


@dataclass(frozen=True)
class GpuMemory:
    """Bytes of a card. ``free``: can be allocated by a run, including what this process has reserved, such as a WebUI's
    model, which makes room.
    """

    total: int
    free: int


def gpu_memory(device: torch.device) -> GpuMemory | None:
    """None where it is not known."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    return GpuMemory(total, min(total, free + torch.cuda.memory_reserved(device)))


def memory_request(
    model: ModelFolder, settings: Settings, precision: str, plan: Plan, generates: bool, gpu: GpuMemory
) -> MemoryRequest:
    """What is planned for a run: its largest images, and a card with the memory that is free now."""
    buckets = {example.bucket for example in plan.images()} or {(settings.resolution, settings.resolution)}
    previews = any(concept.n_save_sample for concept in model.load().concepts) or bool(settings.sanity_prompt)
    scenario = Scenario(
        precision, max(buckets, key=lambda size: size[0] * size[1]), bool(plan.class_examples or generates), generates,
        plan.prompts_vary(), previews,
    )  # fmt: skip
    return MemoryRequest(model, settings, scenario, max(gpu.free - OVERHEAD, OVERHEAD))


def estimate(settings: Settings, precision: str, size: ModelSize, class_images: bool, prompts_vary: bool) -> MemoryPlan:
    """By the formula, which takes no time."""
    n_bytes = forecast_memory(settings, precision, size, class_images, prompts_vary=prompts_vary)
    return MemoryPlan({"training": n_bytes}, is_estimate=True)


def memory_of(
    model: ModelFolder, settings: Settings, precision: str, size: ModelSize, plan: Plan, generates: bool,
    device: torch.device, wait: bool,
) -> MemoryPlan:  # fmt: skip
    """The plan of a run on a GPU; an estimate elsewhere, where tracing fails, and, unless it may ``wait`` for seconds,
    where it was not planned before.
    """
    if gpu := gpu_memory(device):
        request = memory_request(model, settings, precision, plan, generates, gpu)
        if planned := plan_memory(request) if wait else known_plan(request):
            return planned
    return estimate(settings, precision, size, bool(plan.class_examples or generates), plan.prompts_vary())


def plan_in_background(
    model: ModelFolder, settings: Settings, precision: str, plan: Plan, generates: bool, device: torch.device
) -> bool:
    """Plan the memory of a run for the next time that it is asked for. Returns whether it is being planned."""
    gpu = gpu_memory(device)
    if gpu is None:
        return False
    request = memory_request(model, settings, precision, plan, generates, gpu)
    if not can_be_planned(request):
        return False
    threading.Thread(target=plan_memory, args=(request,), name="dreambooth memory", daemon=True).start()
    return True


def memory_warnings(plan: MemoryPlan, gpu: GpuMemory | None) -> list[str]:
    """Whether the card, or what is free of it, is too small for a run."""
    if gpu is None or plan.needed <= gpu.free:
        return []
    needs = f"The run needs {plan.summary()}, and {format_bytes(OVERHEAD)} for CUDA itself"
    if plan.needed > gpu.total:
        return [f"{needs}; the GPU has {format_bytes(gpu.total)}: {_ADVICE.get(plan.highest, _OF_TRAINING)}."]
    return [
        f"{needs}; {format_bytes(gpu.free)} of the GPU's {format_bytes(gpu.total)} are free: close other programs that "
        f"use it, or {_ADVICE.get(plan.highest, _OF_TRAINING)}."
    ]


def memory_taken(plan: MemoryPlan, device: torch.device) -> str:
    """What to say right before a run starts, where memory no longer suffices; "" if it does."""
    gpu = gpu_memory(device)
    if gpu is None or plan.is_estimate or plan.needed <= gpu.free or plan.needed > gpu.total:
        return ""
    return (
        f"Another program has taken memory of the GPU: {format_bytes(gpu.free)} are free, the run needs "
        f"{format_bytes(plan.needed)} in {plan.phase_title()}. Close it if the run ends out of memory."
    )


def peaks_text(measured: Mapping[str, int], plan: MemoryPlan | None) -> str:
    """The peaks of a run that ended, each beside the one that was planned; "" without a GPU."""
    planned: dict[str, int] = {}
    for phase, n_bytes in (plan.phases if plan else {}).items():
        for name, phases in _MEASURED.items():
            if phase in phases:
                planned[name] = max(planned.get(name, 0), n_bytes)
    parts = [
        f"{name} {format_bytes(n)}" + (f" (forecast {format_bytes(planned[name])})" if name in planned else "")
        for name, n in measured.items()
    ]
    return f"Peak GPU memory: {', '.join(parts)}." if parts else ""
