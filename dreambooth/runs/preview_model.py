"""Previews on another model than the one that is trained, such as Z-Image-Turbo for a LoRA of Z-Image."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from dreambooth.checkpoints.adapters import Adapter
from dreambooth.checkpoints.lora import WeightedLora
from dreambooth.checkpoints.lora_file import LoraFile
from dreambooth.checkpoints.manifest import Manifest
from dreambooth.checkpoints.modules import Modules, load_family
from dreambooth.errors import UserError
from dreambooth.memory.placement import weights_on_device
from dreambooth.models.adapter_spelling import underscored
from dreambooth.runs.samples import sampling_modules
from dreambooth.sampling.generate import SampleRequest, activation_bytes
from dreambooth.settings import ModelFolder, Settings
from dreambooth.training.adapters import collect_adapters
from dreambooth.training.session import Session


def problems_of(model: ModelFolder, settings: Settings) -> list[str]:
    """Why previews can't be generated with the chosen model."""
    if not _is_chosen(settings):
        return []
    try:
        chosen = _chosen(model, settings).require()
    except UserError as error:
        return [f"preview_model: {text}" for text in error.problems]
    own, other = load_family(model.working), load_family(chosen.working)
    if own is not other:
        return [f"preview_model: {chosen.name} is a model of {other.title}; choose one of {own.title}."]
    trained = {component.name for component in (own.denoiser, *own.text_encoders)}
    shapes, others = (Manifest.load(m.source).shapes() for m in (model, chosen))
    if any(others.get(ref) != shape for ref, shape in shapes.items() if ref.component in trained):
        return [f"preview_model: {chosen.name} has modules of other sizes, so that the LoRA does not fit it."]
    return []


@contextlib.contextmanager
def modules_for_previews(session: Session, requests: Sequence[SampleRequest]) -> Iterator[Modules]:
    """The modules to generate previews with: those that are trained, or the chosen model with their adapters.

    The chosen model is loaded each time, so that it takes no memory in between. Blocks for which the GPU has no room
    stay in main memory.
    """
    if not _is_chosen(session.settings):
        with session.for_sampling() as modules:
            yield modules
        return
    chosen = _chosen(session.model, session.settings)
    with session.evaluating():
        with session.inference_weights(sampling=True):
            trained = collect_adapters(session.layers)
            adapters = {underscored(name): _on_cpu(adapter) for name, adapter in trained.items()}
        lora = LoraFile(session.model.root, adapters)
        loras = [] if lora.no_effect else [(lora, WeightedLora(lora.path))]  # before the first step
        modules = sampling_modules(chosen, chosen.load().settings, session.device, loras)
        with weights_on_device(modules.denoiser, session.device, activation_bytes(requests, 1)):
            yield modules


def _on_cpu(adapter: Adapter) -> Adapter:
    tensors = {name: tensor.detach().cpu() for name, tensor in adapter.tensors.items()}
    if adapter.dora_scale is not None:
        tensors["dora_scale"] = adapter.dora_scale.detach().cpu()
    return type(adapter)(tensors, adapter.alpha, adapter.scale)


def _is_chosen(settings: Settings) -> bool:
    return settings.use_lora and bool(settings.preview_model.strip())


def _chosen(model: ModelFolder, settings: Settings) -> ModelFolder:
    return ModelFolder(model.folders, settings.preview_model.strip())
