"""The interface of a model family: all that differs between families and is known without loading a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dreambooth.errors import UserError
from dreambooth.models.adapter_layers import LayerKinds
from dreambooth.models.adapter_spelling import is_text_encoder_name, without_prefix
from dreambooth.models.capabilities import Capabilities
from dreambooth.models.components import DENOISER, TEXT_ENCODER, VAE, Component
from dreambooth.models.conditioning import TextConditioner
from dreambooth.models.denoiser import Denoiser
from dreambooth.models.latents import LatentCodec
from dreambooth.models.layout import Layout, Shapes
from dreambooth.models.process import Process
from dreambooth.models.recognition import Recognition
from dreambooth.models.size_estimate import SizeEstimate
from dreambooth.settings import Settings
from dreambooth.settings.creation import AUTO
from dreambooth.tensor_files import Tensors

Configs = Mapping[str, Mapping[str, Any]]


class Family:
    """A model family. Subclasses override what differs; instances are stateless, and equal only to themselves.

    A family becomes available by :func:`dreambooth.models.registry.register`.

    ``references_sources``: components are read from the files of the source in place, where those of Stable Diffusion
    are copied; for families with large files. Then :meth:`component_keys` and :meth:`with_original_names` must know the
    names in a file without looking at the files of other components.
    """

    model_type: str  # as in db_config.json
    title: str
    components: tuple[Component, ...]
    base_model_version: str  # kohya's ss_base_model_version
    usual_size: tuple[int, int, int] = (0, 0, 0)  # parameters of denoiser and text encoders, pixels; 0: not known
    layer_kinds = LayerKinds()  # of adapters' targets; without any there are no presets of layers
    adapter_title: str = ""  # its name in messages about adapter files that were made for it; "": the title
    implementation = "diffusers"  # modelspec.implementation of LoRAs
    checkpoint_implementation = "diffusers"  # the same of checkpoints
    capabilities = Capabilities()  # the settings that it can't have
    defaults: Mapping[str, Any] = {}  # settings of a new model that differ from those declared, see default_settings
    required_libraries: Mapping[str, str] = {}  # package: versions, as {"diffusers": ">=0.36"}
    default_prediction: str  # what the denoiser predicts, unless the source says something else
    references_sources: bool = False  # see above
    ema_prefix: str = ""  # of EMA weights in a single file; "": the family's files have none

    # -- components --------------------------------------------------------------------------------------------

    def component(self, name: str) -> Component:
        """The component with this name, or the denoiser for the name of its EMA weights."""
        return next(c for c in self.components if name in (c.name, c.ema_name))

    @property
    def component_names(self) -> tuple[str, ...]:
        return tuple(component.name for component in self.components)

    @property
    def denoiser(self) -> Component:
        return next(component for component in self.components if component.role == DENOISER)

    @property
    def vae(self) -> Component:
        return next(component for component in self.components if component.role == VAE)

    @property
    def text_encoders(self) -> tuple[Component, ...]:
        return tuple(component for component in self.components if component.role == TEXT_ENCODER)

    @property
    def other_files(self) -> tuple[Component, ...]:
        """The components that are not part of the denoiser's file, as a text adapter may be."""
        own = self.denoiser.prefix
        return tuple(component for component in self.components if not component.prefix.startswith(own))

    def make_module(self, name: str, config: Mapping[str, Any]) -> nn.Module:
        """The module of a component on the meta device: names and shapes without values."""
        raise NotImplementedError

    def rebuild_buffer(self, name: str, buffer: torch.Tensor) -> torch.Tensor:
        """The value of a buffer that weight files don't have. NotImplementedError for an unknown one."""
        raise NotImplementedError(f"no values for buffer {name}")

    def load_tokenizer(self, folder: Path) -> Any:
        """A text encoder's tokenizer from its folder in working/, without network access."""
        raise NotImplementedError

    def write_tokenizers(self, working: Path, configs: Configs) -> None:
        """Write the tokenizers of all text encoders into ``working``."""
        raise NotImplementedError

    # -- recognizing --------------------------------------------------------------------------------------------

    def with_original_names(self, file: Tensors) -> Tensors:
        """``file``, or a view of it whose tensors have the names that :meth:`matches` and :meth:`layout` know."""
        return file

    def current_name(self, component: str, name: str) -> str:
        """A tensor's name in current versions of the libraries, from that in a diffusers folder of any version."""
        return self.component(component).disk_name(name)

    def component_keys(self, component: Component, file: Tensors) -> dict[str, str]:
        """Keys in the family's single file, with the names in a file of this component alone; {} if it is not one."""
        raise NotImplementedError

    def matches(self, shapes: Shapes) -> bool:
        """Whether a file with these tensors belongs to this family, even if it is incomplete."""
        raise NotImplementedError

    def matches_folder(self, configs: Configs) -> bool:
        """The same for a diffusers folder, from the configs of its components."""
        return False

    def missing(self, shapes: Shapes, of_checkpoint: bool = False) -> list[str]:
        """Descriptions of the components that the file lacks; ``of_checkpoint``: of those that checkpoints contain."""
        return [f"{title} ({prefix}*)" for prefix, title in self.missing_prefixes(shapes, of_checkpoint).items()]

    def missing_prefixes(self, shapes: Shapes, of_checkpoint: bool = False) -> dict[str, str]:
        """As :meth:`missing`: the prefixes of which the file has no tensor, with their titles."""
        own_files = {component.prefix for component in self.components if not component.in_checkpoint}
        return {
            prefix: title
            for prefix, title in self.required_prefixes(shapes).items()
            if not (of_checkpoint and prefix in own_files) and not any(key.startswith(prefix) for key in shapes)
        }

    def inpaints(self, shapes: Shapes) -> bool:
        """Whether a file with these tensors is an inpainting model, even if it is incomplete."""
        return False

    def required_prefixes(self, shapes: Shapes) -> dict[str, str]:
        """The prefixes of which a complete file has tensors, each with the title of that part."""
        return {component.prefix: component.title for component in self.components}

    def recognize(self, file: Tensors, families: Sequence[Family], prediction: str) -> Recognition:
        """What the file is, if it is one of ``families``, of which this is the first. ``prediction``: "auto", or the
        user's choice. UserError for one that can't be trained.
        """
        if prediction not in (AUTO, self.default_prediction):
            raise UserError(f"prediction_type: {self.title} has no {prediction}: choose {AUTO}.")
        return Recognition(self, self.default_prediction, f"{self.title}, by its tensors", notes=tuple(file.notes))

    # -- configs ------------------------------------------------------------------------------------------------

    def configs(self, shapes: Shapes, metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        """Configs of the components, from original tensor names and shapes.

        Components that checkpoints don't contain are left out where they are missing, as in the denoiser's own file.

        UserError when a tensor that determines a size is missing, or when the components don't match each other.
        """
        raise NotImplementedError

    def config_metadata(self, configs: Configs) -> dict[str, str]:
        """The configs of a diffusers folder as metadata for :meth:`configs`.

        Like :meth:`matches_folder` and :meth:`layout` it may raise any exception when the configs are malformed.
        """
        return {}

    def with_prediction(self, metadata: Mapping[str, str], prediction: str) -> dict[str, str]:
        """The metadata of the source, with the prediction type that it is trained with where that is stated."""
        return dict(metadata)

    def layout(self, configs: Configs) -> Layout:
        """The mapping between the tensors of the single file and those of the modules."""
        raise NotImplementedError

    def scheduler_config(self, prediction_type: str, shapes: Shapes, metadata: Mapping[str, str]) -> dict[str, Any]:
        """The scheduler config with the noise schedule that the model was trained with."""
        raise NotImplementedError

    def process(self, scheduler: Mapping[str, Any], device: torch.device | str = "cpu") -> Process:
        """The diffusion process of a model with this scheduler config."""
        raise NotImplementedError

    def distilled_steps(self, scheduler: Mapping[str, Any]) -> int:
        """Sampler steps of a model that is distilled for few steps without guidance, from its scheduler config; 0 for
        other models.
        """
        return 0

    def embedded_guidance(self, scheduler: Mapping[str, Any]) -> float:
        """The guidance scale of samples from a model that takes it as an input, in place of classifier-free guidance,
        from its scheduler config; 0 for other models. See :data:`conditioning.GUIDANCE`.
        """
        return 0.0

    def latent_codec(self, vae: Mapping[str, Any]) -> LatentCodec:
        """The size and normalization of latents, from the VAE's config."""
        raise NotImplementedError

    def model_index(self, configs: Configs) -> dict[str, Any]:
        """The model_index.json of diffusers, with the family as the entry ``_dreambooth_family``."""
        return {"_dreambooth_family": self.model_type}

    # -- conditioning and prediction ----------------------------------------------------------------------------

    def prompt_encoding(self, settings: Settings | None = None, training: bool = False) -> Any:
        """Options of tokenizing and encoding prompts; their repr is part of the key of cached embeddings.

        ``settings`` None: the defaults; ``training``: for captions.
        """
        return None

    def text_conditioner(
        self, text_encoders: Mapping[str, Any], tokenizers: Mapping[str, Any], prompt_encoding: Any
    ) -> TextConditioner[Any]:
        """Encodes prompts as ``prompt_encoding`` says. Modules and tokenizers by component name; without modules, it
        tokenizes and counts; without tokenizers, it collates conditioning from the cache.
        """
        raise NotImplementedError

    def embedding_bytes(self, configs: Configs, n_tokens: int) -> int:
        """Bytes of a prompt's conditioning in the cache, approximately. 0 if that is not known."""
        return 0

    def make_denoiser(self, module: Any) -> Denoiser:
        """The denoiser's module behind the interface of all denoisers."""
        raise NotImplementedError

    def extra_channels(self, denoiser: Mapping[str, Any]) -> int:
        """Channels that the denoiser takes besides the noisy latents, from its config: for inpainting, the mask and the
        latents of the masked image; 0 for others.
        """
        return 0

    # -- training -----------------------------------------------------------------------------------------------

    def native_resolution(self, configs: Configs) -> int:
        """The image size that the model was trained at, in pixels; 0 if the configs don't tell."""
        return int(self.defaults.get("resolution", 0))

    def default_settings(self, configs: Configs) -> dict[str, Any]:
        """The settings of a new model that differ from those declared."""
        resolution = self.native_resolution(configs)
        return {**self.defaults, **({"resolution": resolution} if resolution else {})}

    def variants(self, configs: Configs) -> list[str]:
        """What is special about a model within the family, such as "inpainting", for its summary."""
        return []

    def size_estimate(self, n_denoiser: int) -> SizeEstimate:
        """Activations and adapters of a model whose denoiser has ``n_denoiser`` parameters."""
        return SizeEstimate()

    # -- adapters -----------------------------------------------------------------------------------------------

    def adapter_targets(
        self, component: str, module: nn.Module, convolutions: bool = False
    ) -> dict[str, nn.Linear | nn.Conv2d]:
        """The layers of a component that get an adapter by default, by path; with ``convolutions``, also LoCon's."""
        return self.possible_adapter_targets(component, module, convolutions)

    def possible_adapter_targets(
        self, component: str, module: nn.Module, convolutions: bool = False
    ) -> dict[str, nn.Linear | nn.Conv2d]:
        """All layers that can get an adapter: those that programs find by the names in a LoRA file.

        By default the linear layers of the repeated blocks, without modulation.
        """
        blocks = tuple(f"{path}." for path, m in module.named_modules() if isinstance(m, nn.ModuleList))
        return {
            path: m
            for path, m in module.named_modules()
            if isinstance(m, nn.Linear) and path.startswith(blocks) and not self.layer_kinds.is_modulation(path)
        }

    def needs_convolutions(self, name: str) -> bool:
        """Whether a weight of the denoiser is a target only with convolutions (LoCon)."""
        return False

    @property
    def adapter_metadata(self) -> dict[str, str]:
        """kohya's metadata of the model family."""
        return {"ss_base_model_version": self.base_model_version}

    def made_adapter(self, version: str, sizes: Mapping[str, tuple[int, int] | None]) -> bool:
        """Whether an adapter file was made for this family.

        ``version``: its ss_base_model_version, or "". ``sizes``: rows and columns by module name with underscores.
        """
        return bool(version) and version.startswith(self.base_model_version)

    def title_of_adapter(self, version: str, sizes: Mapping[str, tuple[int, int] | None]) -> str:
        """What messages call the family of an adapter file. Arguments as of :meth:`made_adapter`."""
        return self.adapter_title or self.title

    def common_adapter_names(self, files: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
        """One written name for each module in all adapter files, for each file by its names with underscores.

        ``files``: the names as each file has them, by those with underscores. By default the first name with dots.
        """
        names: dict[str, str] = {}
        for flat, name in (item for file in files for item in file.items()):
            path = flat if is_text_encoder_name(flat) else without_prefix(flat)
            names[path] = name if "." not in names.get(path, "") else names[path]
        return [
            {flat: names[flat if is_text_encoder_name(flat) else without_prefix(flat)] for flat in file}
            for file in files
        ]

    def is_adapter_file(self, shapes: Shapes) -> bool:
        """Whether it is an adapter file in a format of this family alone, which :meth:`adapter_keys` can read."""
        return False

    def adapter_keys(self, path: Path, shapes: Shapes) -> dict[str, tuple[str, str]]:
        """The module (with underscores) and the adapter's tensor for each key of such a file. UserError if damaged."""
        raise NotImplementedError

    # -- exporting ----------------------------------------------------------------------------------------------

    def is_ema(self, key: str) -> bool:
        """Whether a tensor of a single file belongs to its EMA weights."""
        return bool(self.ema_prefix) and key.startswith(self.ema_prefix)

    def is_exported(self, key: str) -> bool:
        """Whether checkpoints contain this tensor of the source."""
        return not any(key.startswith(part.prefix) for part in self.components if not part.in_checkpoint)

    def filler_tensors(self, shapes: Shapes, scheduler: Mapping[str, Any]) -> dict[str, Any]:
        """Tensors that diffusers folders lack and strict readers of single files expect. They don't affect images."""
        return {}

    def marker_tensors(self, scheduler: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Empty tensors that tell WebUIs the prediction type and noise schedule of a checkpoint."""
        return {}

    def sidecar(self, working: Path, source: Path) -> tuple[str, bytes] | None:
        """Ending and contents of a file that WebUIs need beside a checkpoint; None without one."""
        return None

    def architecture(self, denoiser: Mapping[str, Any]) -> str:
        """The value of modelspec.architecture, from the denoiser's config."""
        raise NotImplementedError

    def modelspec_values(self, prediction_type: str, clip_skip: int) -> dict[str, str]:
        """Keys of Stability's ModelSpec that only some families have."""
        return {}

    def ss_values(self, settings: Settings) -> dict[str, Any]:
        """kohya's ss_* keys that only some families have."""
        return {}
