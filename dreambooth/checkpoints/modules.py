"""Loading modules of diffusers and transformers from a model's ``working`` folder, and saving their weights to it.

Modules are built on the meta device, without allocation or initialization, and then get the tensors of the file, so
loading takes about as long as reading the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dreambooth.checkpoints.reading import open_tensors
from dreambooth.checkpoints.references import (
    checked_reference,
    module_shapes,
    open_reference,
    read_reference,
    remove_reference,
)
from dreambooth.errors import UserError
from dreambooth.files import atomic_write, content_hash, read_json, write_json
from dreambooth.models.components import DENOISER, TEXT_ENCODER, VAE, Component, Quantize
from dreambooth.models.conditioning import TextConditioner
from dreambooth.models.family import Family
from dreambooth.models.latents import LatentCodec
from dreambooth.models.layout import Layout
from dreambooth.models.libraries import require_libraries
from dreambooth.models.registry import family_of
from dreambooth.tensor_files import TensorFile, Tensors, TensorSpec, TensorWriter
from dreambooth.text import count


@dataclass
class Modules:
    """The modules of a model for training and sampling: those that were requested, by component name."""

    family: Family
    layout: Layout
    scheduler_config: dict[str, Any]
    parts: dict[str, Any] = field(default_factory=dict)  # type stubs of diffusers' modules lack the config attributes
    tokenizers: dict[str, Any] = field(default_factory=dict)  # of the loaded text encoders, by component name

    @property
    def denoiser(self) -> Any:
        """The denoiser's module. KeyError if it is not loaded, as for the other roles."""
        return self.parts[self.family.denoiser.name]

    @property
    def vae(self) -> Any:
        return self.parts[self.family.vae.name]

    @property
    def latent_codec(self) -> LatentCodec:
        """Of the VAE's latents, which must be loaded."""
        return self.family.latent_codec(self.vae.config)

    @property
    def text_encoders(self) -> dict[str, nn.Module]:
        """The loaded text encoders by component name."""
        return {c.name: self.parts[c.name] for c in self.family.text_encoders if c.name in self.parts}

    def text_conditioner(self, prompt_encoding: Any) -> TextConditioner[Any]:
        """Of the loaded text encoders and tokenizers; encodes prompts as ``prompt_encoding`` says."""
        return self.family.text_conditioner(self.text_encoders, self.tokenizers, prompt_encoding)


def load_modules(
    working: Path,
    *,
    denoiser: bool = True,
    vae: bool = True,
    text_encoder: bool = True,
    dtype: torch.dtype = torch.float32,
    quantize: Quantize | None = None,
    device: torch.device | None = None,
) -> Modules:
    """Load the modules of ``working`` in ``dtype``, in eval mode, with gradients disabled.

    They are on the CPU, or on ``device``, to which weights are copied one by one.

    ``text_encoder`` loads all text encoders of the family, each with its tokenizer. ``quantize`` is called for each
    parameter, see :meth:`Component.load_parameters`. UserError when a file is missing, damaged, or does not match its
    config.
    """
    working = Path(working)
    family = load_family(working)
    requested = {DENOISER: denoiser, VAE: vae, TEXT_ENCODER: text_encoder}
    components = [component for component in family.components if requested[component.role]]
    return Modules(
        family=family,
        layout=load_layout(working, family),
        scheduler_config=load_scheduler_config(working),
        parts={
            component.name: load_component(working, component.name, dtype, quantize, device) for component in components
        },
        tokenizers=load_tokenizers(working, family) if text_encoder else {},
    )


def load_family(working: Path) -> Family:
    """The family of a created model."""
    return family_of(read_json(Path(working) / "model_index.json").get("_dreambooth_family", "v1x"))


def load_scheduler_config(working: Path) -> dict[str, Any]:
    """The scheduler config: noise schedule and prediction type."""
    return read_json(Path(working) / "scheduler" / "scheduler_config.json")


def load_layout(working: Path, family: Family) -> Layout:
    """The mapping between the model's tensors and the original names."""
    return family.layout(load_configs(working, family))


def load_configs(working: Path, family: Family) -> dict[str, dict[str, Any]]:
    """The configs of the components, by their names."""
    return {name: read_json(Path(working) / name / "config.json") for name in family.component_names}


def load_component(
    working: Path,
    name: str,
    dtype: torch.dtype = torch.float32,
    quantize: Quantize | None = None,
    device: torch.device | None = None,
) -> Any:
    """One component as :func:`load_modules` does, or the denoiser with its EMA weights by their folder's name."""
    family, folder = load_family(working), Path(working) / name
    component = family.component(name)
    require_libraries(family)
    module = family.make_module(component.name, read_json(folder / "config.json"))
    with open_component(working, name) as file:
        _load_from(module, component, file, dtype, quantize, device)
    for buffer_name, buffer in list(module.named_buffers()):
        if buffer.is_meta or buffer_name.endswith("position_ids"):
            owner, _, leaf = buffer_name.rpartition(".")
            setattr(module.get_submodule(owner), leaf, family.rebuild_buffer(buffer_name, buffer))
    return module.eval()


def load_tokenizers(working: Path, family: Family) -> dict[str, Any]:
    """The tokenizers of all text encoders, by component name."""
    return {c.name: family.load_tokenizer(Path(working) / c.tokenizer) for c in family.components if c.tokenizer}


def load_latent_codec(working: Path) -> LatentCodec:
    """The size and normalization of the model's latents."""
    family = load_family(working)
    return family.latent_codec(read_json(Path(working) / family.vae.name / "config.json"))


def weights_path(working: Path, component: str) -> Path:
    """The weight file of a component. It does not exist if the component is read in place from the source's files."""
    return Path(working) / component / load_family(working).component(component).weights


def open_component(working: Path, name: str) -> Tensors:
    """The weights of a component, or of the denoiser's EMA: from its file in ``working``, or from the source's files.

    UserError when a file is missing, damaged, or not the one that the model was created from.
    """
    working = Path(working)
    family = load_family(working)
    component = family.component(name)
    reference = checked_reference(working / name, component)
    if reference is None:
        return open_weights(weights_path(working, name))
    shapes = _expected_shapes(working, family, component)
    return open_reference(reference, family, component, load_layout(working, family), shapes)


def weights_problem(working: Path, name: str) -> str:
    """Why the weights of a component can't be read; "" if they can."""
    try:
        if checked_reference(Path(working) / name, load_family(working).component(name)) is None:
            path = weights_path(working, name)
            return "" if path.exists() else f"{path} is missing: create {Path(working).parent.name} again."
    except UserError as error:
        return str(error)
    return ""


def _expected_shapes(working: Path, family: Family, component: Component) -> dict[str, tuple[int, ...]]:
    """The shapes of a component's tensors by their names on disk, from its config."""
    return module_shapes(family, component, read_json(working / component.name / "config.json"))


def open_weights(path: Path) -> TensorFile:
    """Open a weight file in the folder of a model."""
    try:
        return open_tensors(path)
    except UserError as error:
        raise UserError(f"{path} is missing, unreadable or damaged: create the model again.") from error


def save_component(
    working: Path,
    name: str,
    weights: nn.Module | Mapping[str, torch.Tensor],
    dtype: torch.dtype | None = None,
) -> None:
    """Replace the weights of a component atomically. ``dtype`` None keeps the dtype of the tensors.

    They take the place of files that the component was read from. ``name`` is a component, or that of the denoiser's
    EMA weights, whose folder is created if needed. ValueError when
    names or shapes are not exactly those of the component, as when an adapter is still injected or a layer is missing.
    """
    tensors = dict(weights.named_parameters()) if isinstance(weights, nn.Module) else weights
    working = Path(working)
    family = load_family(working)
    component = family.component(name)
    tensors = {component.disk_name(key): value.detach() for key, value in tensors.items()}
    if read_reference(working / component.name):  # its files may be gone by now
        expected = _expected_shapes(working, family, component)
    else:
        with open_component(working, component.name) as file:
            expected = {key: file.shape(key) for key in file}
    if {key: tuple(value.shape) for key, value in tensors.items()} != expected:
        differing = sorted(tensors.keys() ^ expected.keys())[:5]
        raise ValueError(f"names or shapes differ from the weights of {name}: {differing}")
    if name == component.ema_name:
        write_json(working / name / "config.json", read_json(working / component.name / "config.json"))
    specs = {key: TensorSpec(expected[key], dtype or tensors[key].dtype) for key in expected}
    with (
        atomic_write(weights_path(working, name)) as temporary,
        TensorWriter(temporary, specs, {"format": "pt"}) as writer,
    ):
        for key, spec in specs.items():  # one at a time in main memory
            writer.write(key, tensors[key].to("cpu", spec.dtype))
    remove_reference(working / name)


def fingerprint(working: Path, component: str) -> str:
    """sha256 of the component's weights, cached next to them until size or modification time of the file change.

    That of the source's file where the component is read in place; UserError if it is missing or has changed.
    """
    if reference := checked_reference(Path(working) / component, load_family(working).component(component)):
        return reference.fingerprint
    path = weights_path(working, component)
    try:
        stat = path.stat()
    except FileNotFoundError:
        raise UserError(f"{path} is missing: create the model again.") from None
    state = [stat.st_size, stat.st_mtime_ns]
    cache_path = path.with_name("fingerprint.json")
    try:
        cached = json.loads(cache_path.read_text(encoding="utf-8"))
        if cached["state"] == state:
            return cached["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # missing or unreadable: it is only a cache
    digest = content_hash(path)
    write_json(cache_path, {"state": state, "sha256": digest})
    return digest


def _load_from(
    module: nn.Module,
    component: Component,
    file: Tensors,
    dtype: torch.dtype,
    quantize: Quantize | None,
    device: torch.device | None,
) -> None:
    """Load the tensors of a file into a module one by one. UserError when names or shapes differ."""
    expected = component.disk_shapes(module)
    shapes = {key: file.shape(key) for key in file if not key.endswith("position_ids")}
    if shapes != expected:
        differing = [key for key in {**expected, **shapes} if expected.get(key) != shapes.get(key)]
        raise UserError(
            f"{file.path} does not match its config.json ({count(len(differing), 'difference')}, first "
            f"{differing[0]}): create the model again."
        )
    component.load_parameters(module, file.get, dtype, quantize, device)
