"""The memory of a run by phase: its own session, step, preview and class images, on a device that counts bytes.

What would read files, or the values of tensors, is replaced for the whole process: only for a process of its own
(:mod:`dreambooth.runs.memory_plan`), for tools and for tests.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image

from dreambooth.checkpoints import modules as checkpoint_modules
from dreambooth.dataset.plan import Example, Plan
from dreambooth.images.buckets import Crop
from dreambooth.jobs import Controls, Events
from dreambooth.memory.allocations import Allocations, Peak
from dreambooth.memory.replaced import replaced
from dreambooth.memory.virtual_cuda import DEVICE
from dreambooth.models.latents import LatentCodec
from dreambooth.models.process import Process
from dreambooth.runs import class_image_generation
from dreambooth.runs.eight_bit_states import eight_bit_optimizers
from dreambooth.runs.memory_plan import Scenario
from dreambooth.sampling import decoding, generate
from dreambooth.settings import Concept, ModelFolder
from dreambooth.settings.run import Settings
from dreambooth.tensor_files import TensorFile
from dreambooth.training import inpainting, inputs, loss_masks, prompts, training_adapter
from dreambooth.training import session as sessions
from dreambooth.training.adapters import collect_adapters
from dreambooth.training.context import RunContext
from dreambooth.training.fused_backward import FusedBackwardStepper
from dreambooth.training.loop import NO_HOOKS, Loop
from dreambooth.training.precision import compute_dtype
from dreambooth.training.session import Session

STEP_PHASES = ("forward", "backward", "optimizer", "EMA")
PHASES = (
    "class images", "latents", "text embeddings", "loading", *STEP_PHASES, "sampling", "decoding", "saving",
)  # fmt: skip

_WITH_DENOISER = {"loading", *STEP_PHASES, "sampling", "decoding", "saving"}  # which is on the device then


class Device(Protocol):
    """A device whose allocations are counted."""

    allocations: Allocations

    def assign(self, tensors: Sequence[torch.Tensor], category: str) -> None: ...


def trace(
    device: Device,
    model: ModelFolder,
    settings: Settings,
    scenario: Scenario,
    step: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
) -> dict[str, Peak]:
    """The peaks of the phases that the run has, by their names in :data:`PHASES`. ``step``: entered for the step."""
    if settings.attention == "xformers":  # takes the memory of torch's own
        settings = dataclasses.replace(settings, attention="default")
    if settings.cuda_graphs:  # which keep the gradients
        settings = dataclasses.replace(settings, cuda_graphs=False, gradient_set_to_none=False)
    beside_weights = training_adapter.file_bytes(model, settings)
    settings = dataclasses.replace(settings, training_adapter="")
    concept = Concept(instance_data_dir="images", instance_token="zwx", class_token="dog", save_sample_prompt="a dog")
    config = dataclasses.replace(model.load(), settings=settings, concepts=(concept,))
    events = Events(None, lambda event: _start_phase(device, event))
    context = RunContext(model, config, _plan(settings, scenario), DEVICE, scenario.precision, Controls(), events)
    with _without_files(), _phases_of_sampling(device), eight_bit_optimizers():
        if scenario.generates:
            _generate_class_images(context, scenario)
        with contextlib.closing(Session(context)) as session:
            _assign_state(session, device)
            _start_optimizer(session, device)
            with step():
                _step(session, device)
            if scenario.preview:
                _preview(session)
            _save(session, device)
    peaks = {phase: device.allocations.peaks[phase] for phase in PHASES if phase in device.allocations.peaks}
    return {phase: _higher(peak, beside_weights if phase in _WITH_DENOISER else 0) for phase, peak in peaks.items()}


def _higher(peak: Peak, more: int) -> Peak:
    return dataclasses.replace(peak, bytes=peak.bytes + more) if more else peak


def _start_phase(device: Device, event: Mapping[str, Any]) -> None:
    """Follow the session's phases; the last, which loads the denoiser, has its component's name."""
    if event["kind"] == "phase":
        device.allocations.start(event["name"] if event["name"] in PHASES else "loading")


def _plan(settings: Settings, scenario: Scenario) -> Plan:
    width, height = scenario.bucket
    crop = Crop(width, height, 0, 0, width, height)
    variants = ("a zwx dog", "a dog") if scenario.prompts_vary else ()

    def example(number: int, is_class: bool) -> Example:
        name, caption = f"{number}{is_class}", "a dog" if is_class else "a zwx dog"
        path = Path(f"{name}.png")
        return Example(path, caption, "file name", 0, is_class, name, crop.bucket, crop, variants=variants)

    numbers = range(settings.train_batch_size)
    of_class = {(0, crop.bucket): tuple(example(i, True) for i in numbers)} if scenario.class_images else {}
    return Plan(tuple(example(i, False) for i in numbers), of_class)


# -- one step ------------------------------------------------------------------------------------------------------


def _assign_state(session: Session, device: Device) -> None:
    weights = [(*module.parameters(), *module.buffers()) for module in session.used_in_prediction()]
    device.assign([tensor for tensors in weights for tensor in tensors], "weights")
    if session.settings.use_lora:
        device.assign(_trainable(session), "adapters")
    if session.ema:
        device.assign(session.ema.shadow_params, "EMA weights")
    for parameter in _trainable(session):
        parameter.register_post_accumulate_grad_hook(lambda p: _assign_gradient(p, device))


def _assign_gradient(parameter: torch.Tensor, device: Device) -> None:
    if parameter.grad is not None:  # a fused backward pass has used and dropped it
        device.assign([parameter.grad], "gradients")


def _start_optimizer(session: Session, device: Device) -> None:
    """Its state exists before the step that is traced, as in every step but the first."""
    device.allocations.start("first step")
    if session.offload:  # which brings the state of a block to the GPU with the block
        loop = Loop(session, NO_HOOKS)
        loop.step_runner.run(loop.accumulation_groups(0)[0])
        return
    for parameter in _trainable(session):
        parameter.grad = torch.empty_like(parameter)
    if scaler := session.accelerator.scaler:
        scaler.scale(torch.zeros((), device=DEVICE))  # makes its state
    if isinstance(session.stepper, FusedBackwardStepper):
        for number, group in enumerate(session.optimizer.param_groups):
            for parameter in group["params"]:
                session.stepper.collect(number, parameter)
    session.stepper.step()
    for state in session.optimizer.state.values():
        device.assign([value for value in state.values() if isinstance(value, torch.Tensor)], "optimizer state")


def _step(session: Session, device: Device) -> None:
    def begins(phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            device.allocations.start(phase)
            return function(*args)

        return call

    loop = Loop(session, NO_HOOKS)
    with contextlib.ExitStack() as replacements:
        for owner, name, phase in (
            (session.accelerator, "backward", "backward"),
            (session.stepper, "step", "optimizer"),
            *([(session.ema, "update", "EMA")] if session.ema else []),
        ):
            replacements.enter_context(replaced(owner, **{name: begins(phase, getattr(owner, name))}))
        begins("forward", loop.step)(loop.accumulation_groups(0)[0])


def _trainable(session: Session) -> list[torch.nn.Parameter]:
    return [parameter for group in session.optimizer.param_groups for parameter in group["params"]]


# -- images and results --------------------------------------------------------------------------------------------


def _preview(session: Session) -> None:
    side = session.settings.resolution // session.codec.pixel_multiple * session.codec.pixel_multiple
    with session.for_sampling() as modules:
        encoding = modules.family.prompt_encoding(session.settings)
        request = generate.SampleRequest("a zwx dog", width=side, height=side, steps=1)
        dtype = compute_dtype(session.precision)
        list(generate.generate_images(modules, [request], prompt_encoding=encoding, dtype=dtype))


def _generate_class_images(context: RunContext, scenario: Scenario) -> None:
    width, height = scenario.bucket
    requests = [
        generate.SampleRequest("a dog", seed=i, steps=1, width=width, height=height)
        for i in range(context.config.settings.sample_batch_size)
    ]
    class_image_generation.generate_missing(context, [(Path(f"{r.seed}.png"), r) for r in requests])


def _save(session: Session, device: Device) -> None:
    """What is saved is copied to the CPU, tensor by tensor."""
    device.allocations.start("saving")
    with torch.no_grad(), session.inference_weights():
        if session.layers:
            collect_adapters(session.layers)
        else:
            for parameter in _trainable(session):
                parameter.to("cpu")
    if session.ema:
        session.ema.swap()
        session.ema.swap()


class _Sampler:
    """In place of diffusers' samplers, which index tables by the values of timesteps. They hold no large tensors."""

    def __init__(self, *args: object) -> None:
        self.timesteps = [torch.tensor(1, device=DEVICE)]

    def step(self, output: torch.Tensor, t: object, latents: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
        return (latents - 0.1 * output,)


@contextlib.contextmanager
def _phases_of_sampling(device: Device) -> Iterator[None]:
    """In the block, sampling and decoding are phases of their own in training, and images have no pixels."""
    sampling, decode = Session.for_sampling, LatentCodec.decode

    def for_sampling(session: Session) -> Any:
        device.allocations.start("sampling")
        return sampling(session)

    def decode_in_phase(codec: LatentCodec, vae: Any, latents: torch.Tensor) -> torch.Tensor:
        if device.allocations.phase == "sampling":
            device.allocations.start("decoding")
        return decode(codec, vae, latents)

    with (
        replaced(Session, for_sampling=for_sampling),
        replaced(LatentCodec, decode=decode_in_phase),
        # values are needed for these
        replaced(decoding, _image=lambda pixels: Image.new("RGB", (8, 8)), _is_finite=lambda pixels: True),
        replaced(Process, sampler=_Sampler),
    ):
        yield


@contextlib.contextmanager
def _without_files() -> Iterator[None]:
    """In the block, weights have no values, images are zeros, nothing is hashed, and nothing is written."""

    def get(file: TensorFile, key: str) -> torch.Tensor:
        return torch.empty(file.shape(key), dtype=file.dtype(key))

    def load_pixels(example: Example) -> torch.Tensor:
        return torch.zeros(3, example.crop.height, example.crop.width)

    def load_rgb(example: Example) -> torch.Tensor:
        return torch.zeros(3, example.crop.height, example.crop.width, dtype=torch.uint8)

    def random_mask(width: int, height: int, generator: torch.Generator) -> torch.Tensor:
        return torch.zeros(1, height, width)

    def fingerprint(working: Path, component: str) -> str:
        return ""

    def ignore(*args: object) -> None: ...

    with (
        replaced(TensorFile, get=get),
        replaced(inputs, load_pixels=load_pixels, store=ignore),
        replaced(inpainting, load_rgb=load_rgb, load_mask=ignore, random_mask=random_mask),
        replaced(loss_masks, load_mask=ignore, load_alpha=ignore),
        replaced(prompts, store=ignore),
        replaced(sessions, fingerprint=fingerprint),
        replaced(checkpoint_modules, fingerprint=fingerprint),
        replaced(class_image_generation, write_text=ignore, save_png=ignore),
    ):
        yield
