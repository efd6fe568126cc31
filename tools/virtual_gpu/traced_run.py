"""The GPU memory of a run by phase, from its own session and loop on the fake GPU: encoding, one step, one preview."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from PIL import Image

from dreambooth.dataset.plan import Example, Plan
from dreambooth.images.buckets import Crop
from dreambooth.jobs import Controls, Events
from dreambooth.memory.forecast import forecast_memory
from dreambooth.models.latents import LatentCodec
from dreambooth.models.process import Process
from dreambooth.runs.preflight import size_of
from dreambooth.sampling import decoding, generate
from dreambooth.settings import Concept, ModelFolder, parse
from dreambooth.settings.run import Settings
from dreambooth.training import inputs, prompts
from dreambooth.training.context import RunContext
from dreambooth.training.fused_backward import FusedBackwardStepper
from dreambooth.training.loop import NO_HOOKS, Loop
from dreambooth.training.precision import compute_dtype, resolve_precision
from dreambooth.training.session import Session
from tools.virtual_gpu.allocations import Peak
from tools.virtual_gpu.cuda_api import DEVICE, GpuModel
from tools.virtual_gpu.fake_gpu import FakeGpu, fake_gpu
from tools.virtual_gpu.hollow_model import reading_nothing

STEP_PHASES = ("forward", "backward", "optimizer", "EMA")
PHASES = ("latents", "text embeddings", "loading", *STEP_PHASES, "sampling", "decoding")


@dataclass(frozen=True)
class Trace:
    """``peaks`` by the names in PHASES, those that the run has; ``launches``, ``syncs``, ``copies``: of one step."""

    peaks: Mapping[str, Peak]
    launches: int
    syncs: Mapping[str, int]
    copies: Mapping[str, int]
    forecast: int  # in bytes, as the check before a run gives it

    @property
    def step(self) -> Peak:
        """The highest of a step."""
        return max((self.peaks[phase] for phase in STEP_PHASES if phase in self.peaks), key=lambda peak: peak.bytes)


def trace(
    model: ModelFolder,
    overrides: Mapping[str, Any],
    *,
    class_images: bool = False,
    preview: bool = True,
    gpu_model: GpuModel = GpuModel(),  # noqa: B008 (frozen)
) -> Trace:
    """Trace a run of a model with these settings over the defaults of the model; images are square."""
    config = model.load()
    settings = parse(Settings, overrides, base=config.settings)
    concept = Concept(instance_data_dir="images", instance_token="zwx", class_token="dog", save_sample_prompt="a dog")
    config = dataclasses.replace(config, settings=settings, concepts=(concept,))
    plan = _plan(settings.resolution, settings.train_batch_size, class_images)
    with fake_gpu(gpu_model) as gpu, reading_nothing(), _without_files(), _phases_of_sampling(gpu):
        precision = resolve_precision(settings, DEVICE)
        events = Events(None, lambda event: _start_phase(gpu, event))
        context = RunContext(model, config, plan, DEVICE, precision, Controls(), events)
        with contextlib.closing(Session(context)) as session:
            _assign_state(session, gpu)
            _start_optimizer(session, gpu)
            observed = _step(session, gpu)
            if preview:
                _preview(session, settings)
    forecast = forecast_memory(settings, precision, size_of(model), class_images, prompts_vary=False)
    peaks = {phase: gpu.allocations.peaks[phase] for phase in PHASES if phase in gpu.allocations.peaks}
    return Trace(peaks, *observed, forecast)


def _start_phase(gpu: FakeGpu, event: Mapping[str, Any]) -> None:
    """Follow the session's phases; the last, which loads the denoiser, has its component's name."""
    if event["kind"] == "phase":
        gpu.allocations.start(event["name"] if event["name"] in PHASES else "loading")


def _plan(resolution: int, batch_size: int, class_images: bool) -> Plan:
    crop = Crop(resolution, resolution, 0, 0, resolution, resolution)

    def example(number: int, is_class: bool) -> Example:
        name, caption = f"{number}{is_class}", "a dog" if is_class else "a zwx dog"
        return Example(Path(f"{name}.png"), caption, "file name", 0, is_class, name, crop.bucket, crop)

    classes = tuple(example(i, True) for i in range(batch_size))
    of_class = {(0, crop.bucket): classes} if class_images else {}
    return Plan(tuple(example(i, False) for i in range(batch_size)), of_class)


# -- one step ------------------------------------------------------------------------------------------------------


def _assign_state(session: Session, gpu: FakeGpu) -> None:
    weights = [(*module.parameters(), *module.buffers()) for module in session.used_in_prediction()]
    gpu.assign([tensor for tensors in weights for tensor in tensors], "weights")
    if session.settings.use_lora:
        gpu.assign(_trainable(session), "adapters")
    if session.ema:
        gpu.assign(session.ema.shadow_params, "EMA weights")
    for parameter in _trainable(session):
        parameter.register_post_accumulate_grad_hook(lambda p: _assign_gradient(p, gpu))


def _assign_gradient(parameter: torch.Tensor, gpu: FakeGpu) -> None:
    if parameter.grad is not None:  # a fused backward pass has used and dropped it
        gpu.assign([parameter.grad], "gradients")


def _start_optimizer(session: Session, gpu: FakeGpu) -> None:
    """Its state exists before the step that is traced, as in every step but the first."""
    for parameter in _trainable(session):
        parameter.grad = torch.empty_like(parameter)
    gpu.allocations.start("first step")
    if isinstance(session.stepper, FusedBackwardStepper):
        for number, group in enumerate(session.optimizer.param_groups):
            for parameter in group["params"]:
                session.stepper.collect(number, parameter)
    session.stepper.step()
    for state in session.optimizer.state.values():
        gpu.assign([value for value in state.values() if isinstance(value, torch.Tensor)], "optimizer state")


def _step(session: Session, gpu: FakeGpu) -> tuple[int, dict[str, int], dict[str, int]]:
    """Run one step; returns its launches, synchronizations and copies."""

    def begins(phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            gpu.allocations.start(phase)
            return function(*args)

        return call

    loop = Loop(session, NO_HOOKS)
    gpu.log.clear()
    with contextlib.ExitStack() as patched:
        for owner, name, phase in (
            (session.accelerator, "backward", "backward"),
            (session.stepper, "step", "optimizer"),
            *([(session.ema, "update", "EMA")] if session.ema else []),
        ):
            patched.enter_context(mock.patch.object(owner, name, begins(phase, getattr(owner, name))))
        begins("forward", loop.step)(loop.accumulation_groups(0)[0])
    syncs, copies = Counter[str](), Counter[str]()
    for place, n in gpu.log.syncs.items():
        syncs[place.name] += n
    for (kind, place), n in gpu.log.copies.items():
        copies[f"{kind} {place.name}"] += n
    return sum(gpu.log.launches.values()), dict(syncs), dict(copies)


def _trainable(session: Session) -> list[torch.nn.Parameter]:
    return [parameter for group in session.optimizer.param_groups for parameter in group["params"]]


# -- one preview ---------------------------------------------------------------------------------------------------


def _preview(session: Session, settings: Settings) -> None:
    side = settings.resolution
    with session.for_sampling() as modules:
        encoding = modules.family.prompt_encoding(settings)
        request = generate.SampleRequest("a zwx dog", width=side, height=side, steps=1)
        dtype = compute_dtype(session.precision)
        list(generate.generate_images(modules, [request], prompt_encoding=encoding, dtype=dtype))


class _Sampler:
    """In place of diffusers' samplers, which index tables by the values of timesteps. They hold no large tensors."""

    def __init__(self, *args: object) -> None:
        self.timesteps = [torch.tensor(1, device=DEVICE)]

    def step(self, output: torch.Tensor, t: object, latents: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
        return (latents - 0.1 * output,)


@contextlib.contextmanager
def _phases_of_sampling(gpu: FakeGpu) -> Iterator[None]:
    """In the block, sampling and decoding are phases of their own, and images have no pixels."""
    sampling, decode = Session.for_sampling, LatentCodec.decode

    def for_sampling(session: Session) -> Any:
        gpu.allocations.start("sampling")
        return sampling(session)

    def decode_in_phase(codec: LatentCodec, vae: Any, latents: torch.Tensor) -> torch.Tensor:
        gpu.allocations.start("decoding")
        return decode(codec, vae, latents)

    with (
        mock.patch.object(Session, "for_sampling", for_sampling),
        mock.patch.object(LatentCodec, "decode", decode_in_phase),
        mock.patch.object(decoding, "_image", lambda pixels: Image.new("RGB", (8, 8))),  # values are needed for it
        mock.patch.object(decoding, "_is_finite", lambda pixels: True),
        mock.patch.object(Process, "sampler", _Sampler),
    ):
        yield


@contextlib.contextmanager
def _without_files() -> Iterator[None]:
    """In the block, images are zeros and nothing is cached."""

    def load_pixels(example: Example) -> torch.Tensor:
        return torch.zeros(3, example.crop.height, example.crop.width)

    def store(*args: object) -> None: ...

    with (
        mock.patch.object(inputs, "load_pixels", load_pixels),
        mock.patch.object(inputs, "store", store),
        mock.patch.object(prompts, "store", store),
    ):
        yield
