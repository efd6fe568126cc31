"""The state of a training run: modules, latents, text embeddings, trainable parameters, optimizer."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import torch

from dreambooth.checkpoints.modules import Modules, fingerprint, load_latent_codec, load_modules
from dreambooth.dataset.cache import LatentCache, TextCache
from dreambooth.dataset.plan import Example
from dreambooth.files import read_json
from dreambooth.memory.activation_offload import ActivationOffload
from dreambooth.memory.offload import BlockOffload
from dreambooth.memory.quantized import Quantizer
from dreambooth.memory.release import free_memory
from dreambooth.models.denoiser import Denoiser
from dreambooth.settings.components import (
    is_pure_bf16,
    offloads_blocks,
    quantizes_base,
    trains_ema,
    trains_text_encoder,
)
from dreambooth.training.adapters import AdapterLayer, adapter_config, inject
from dreambooth.training.attention import skip_signature_checks, use_attention
from dreambooth.training.context import RunContext
from dreambooth.training.cuda_graphs import StepGraphs
from dreambooth.training.cuda_graphs import unavailable_reason as graphs_unavailable_reason
from dreambooth.training.dropout import AdapterDropout
from dreambooth.training.ema import EMA
from dreambooth.training.eval_mode import eval_mode
from dreambooth.training.fused_backward import FusedBackwardStepper
from dreambooth.training.gpu_kernels import use_channels_last
from dreambooth.training.gradient_checkpointing import checkpoint_gradients
from dreambooth.training.imagic import Imagic
from dreambooth.training.inpainting import InpaintingInputs
from dreambooth.training.inputs import LatentStore
from dreambooth.training.loss_masks import LossMasks
from dreambooth.training.master_weights import Group, groups_of
from dreambooth.training.noise import training_scheduler_config
from dreambooth.training.optimizers import inference_weights, make_optimizer, make_stepper, parameter_groups
from dreambooth.training.precision import caches_casts, compute_dtype, make_accelerator, reset_accelerator
from dreambooth.training.prompts import CachedPromptEmbedder
from dreambooth.training.snapshot import Position
from dreambooth.training.training_adapter import add_training_adapter, without_training_adapter
from dreambooth.training.unit_factors import skip_unit_factors
from dreambooth.types import dtype_of


class Session:
    """A run's modules and state, from loading to freeing the memory."""

    def __init__(self, context: RunContext) -> None:
        self.model, self.config, self.plan = context.model, context.config, context.plan
        self.settings = context.config.settings
        self.device, self.precision = context.device, context.precision
        self.controls, self.events, self.process_group = context.controls, context.events, context.process_group
        self.trains_text_encoder = trains_text_encoder(self.settings)
        self.modules = load_modules(self.model.working, denoiser=False, vae=False, text_encoder=False)
        self.layers: dict[str, AdapterLayer] = {}
        self.adapter_groups: list[Group] = []  # of layers, in blocks that are checkpointed
        self.dropout = AdapterDropout(self.settings.seed)
        self.ema: EMA | None = None
        self.offload: BlockOffload | None = None
        self.activation_offload: ActivationOffload | None = None
        self.imagic: Imagic | None = None
        self.graphs: StepGraphs | None = None
        self.position = Position()
        self.memory_peaks: dict[str, int] = {}  # bytes measured on the GPU, of "training" and "preview"
        try:
            self.accelerator = make_accelerator(self.device, self.precision, caches_casts(self.settings))
            self._encode_images()
            self.inpainting, self.loss_masks = self._load_masks()
            self.prompts = self._encode_prompts()
            self._load_denoiser()
            groups = self._trainable_groups()
            if self.settings.offload_activations:
                self.activation_offload = ActivationOffload(self.modules.denoiser, self.device)
            self.ema = self._make_ema(groups)
            self.optimizer = make_optimizer(self.settings, groups)
            self.stepper = make_stepper(self.optimizer, self.settings, self.accelerator.scaler)
            if self.offload and isinstance(self.stepper, FusedBackwardStepper):
                self.offload.optimizer, self.offload.finish_updates = self.optimizer, self.stepper.flush
            if self.settings.cuda_graphs and not graphs_unavailable_reason(self.settings, self.device):
                self.graphs = StepGraphs([p for group in groups for p in group["params"]], self.device)
        except BaseException:
            self.close()
            raise

    # -- loading, encoding, assembling: in this order, so that no more than is needed is in memory -------------

    def _encode_images(self) -> None:
        """Provide the latents of all images, from the cache or encoded now; on a CPU by a background thread."""
        working = self.model.working
        self.events.phase("latents")
        cache = LatentCache(self.model.cache / "latents", fingerprint(working, self.modules.family.vae.name))
        self.codec = load_latent_codec(working)
        self.latents = LatentStore(cache, self.codec, self.device)  # before preparing: close() stops its thread
        in_background = self.device.type == "cpu"  # then the training loop handles Cancel
        progress = self.events.progress if in_background else self.controls.cancellable(self.events.progress)
        with contextlib.nullcontext() if in_background else self.process_group.main_process_first():
            self.latents.prepare(self._in_order_of_use(), self._take_vae, progress)

    def _load_masks(self) -> tuple[InpaintingInputs | None, LossMasks | None]:
        """The extra channels of an inpainting model, and the masks of the loss; None where they are not used."""
        settings, family = self.settings, self.modules.family
        inpaints = family.extra_channels(read_json(self.model.working / family.denoiser.name / "config.json")) > 0
        return (
            InpaintingInputs(self._take_vae, self.codec, self.device) if inpaints else None,
            LossMasks(settings.unmasked_weight, self.codec, self.device) if settings.masked_loss else None,
        )

    def _encode_prompts(self) -> CachedPromptEmbedder | Imagic:
        """The text embeddings of all prompts, unless the text encoders are trained."""
        self.events.phase("text embeddings")
        encoding = self.modules.family.prompt_encoding(self.settings, training=True)
        prompts = CachedPromptEmbedder(self.modules, encoding, self.settings.pad_tokens, self.device)
        if self.trains_text_encoder:
            self._load(text_encoder=True, dtype=self._dtype(trains=True), device=self.device)
            prompts.make_trainable()
        else:
            prompts.freeze(self.plan.prompts(), self._text_cache(encoding), self._load_text)
            self._release_text_encoders()
        if not self.settings.train_imagic:
            return prompts
        self.imagic = Imagic.of(self.plan, prompts)
        return self.imagic

    def _text_cache(self, encoding: Hashable) -> TextCache:
        """Keyed by weights, their precision and device: embeddings differ in their last bits with each of them."""
        working = self.model.working
        weights = " ".join(fingerprint(working, part.name) for part in self.modules.family.text_encoders)
        quantized = f" {self.settings.base_precision}" if quantizes_base(self.settings) else ""
        origin = f"{weights} {self._dtype(trains=False)} {self.device.type}{quantized}"
        return TextCache(self.model.cache / "text", origin, encoding)

    def _load_denoiser(self) -> None:
        self.events.phase(self.modules.family.denoiser.name)
        device = None if offloads_blocks(self.settings) else self.device
        denoiser = self._load(denoiser=True, dtype=self._dtype(self.settings.train_unet), device=device).denoiser
        use_attention(denoiser, self.settings.attention)
        skip_unit_factors(denoiser)
        skip_signature_checks(denoiser)
        if self.settings.channels_last and self.settings.use_lora:
            use_channels_last(denoiser)
        scheduler = training_scheduler_config(self.modules.scheduler_config, self.settings.zero_terminal_snr)
        self.process = self.modules.family.process(scheduler, self.device)

    def _trainable_groups(self) -> list[dict[str, Any]]:
        """The optimizer's parameter groups: denoiser and text encoders, whole or as adapters."""
        name = self.modules.family.denoiser.name
        denoiser = self._make_trainable(name, self.modules.denoiser, self.settings.train_unet)
        encoders = self.modules.text_encoders if self.trains_text_encoder else {}
        text = [p for name, encoder in encoders.items() for p in self._make_trainable(name, encoder, True)]
        if self.layers and self.settings.gradient_checkpointing:
            self.adapter_groups = groups_of(self.used_in_prediction())
        return parameter_groups(self.settings, denoiser, text)

    def _make_ema(self, groups: Sequence[dict[str, Any]]) -> EMA | None:
        settings = self.settings
        if not trains_ema(settings):
            return None
        dtype, denoiser = dtype_of(settings.ema_precision), groups[0]["params"]
        return EMA(
            denoiser, settings.ema_decay, settings.ema_on_cpu,
            dtype=dtype, seed=settings.seed, every=settings.ema_update_every,
        )  # fmt: skip

    def _make_trainable(self, name: str, module: torch.nn.Module, trains: bool) -> list[torch.nn.Parameter]:
        """Freeze ``module``, or inject adapters into it; returns its trainable parameters."""
        settings, lora = self.settings, self.settings.use_lora
        module.requires_grad_(trains and not lora)
        is_denoiser = name == self.modules.family.denoiser.name
        in_backward = trains or is_denoiser  # the text encoder's gradients pass through the denoiser
        offloads = is_denoiser and offloads_blocks(settings)
        module.train(in_backward)
        if not offloads:
            module.to(self.device)
        if in_backward and settings.gradient_checkpointing:
            checkpoint_gradients(module)
        if offloads and not (trains and lora):
            self.offload = BlockOffload(module, settings.offload_fraction, self.device)
        if not trains:
            return []
        if not lora:
            if not is_denoiser and settings.freeze_clip_normalization:
                _freeze_normalization(module)
            return [parameter for parameter in module.parameters() if parameter.requires_grad]
        config = adapter_config(settings, "denoiser" if is_denoiser else "text_encoder")
        layers = inject(self.modules, name, config, settings.seed, self.dropout)
        self.layers |= layers
        if is_denoiser:
            add_training_adapter(self.model, self.modules, settings)
        if offloads:
            self.offload = BlockOffload(module, settings.offload_fraction, self.device)
        return [parameter for layer in layers.values() for parameter in layer.trainable_parameters().values()]

    def _dtype(self, trains: bool) -> torch.dtype:
        """float32 for weights that are updated, since lower precision loses small updates; otherwise the compute dtype.

        In pure bfloat16, stochastic rounding preserves small updates.
        """
        is_updated = trains and not self.settings.use_lora and not is_pure_bf16(self.settings)
        return torch.float32 if is_updated else compute_dtype(self.precision)

    def _load(
        self,
        *,
        denoiser: bool = False,
        vae: bool = False,
        text_encoder: bool = False,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> Modules:
        """Load modules into ``self.modules``, on the CPU or on ``device``."""
        quantize = None
        if quantizes_base(self.settings) and not vae:
            offloads = denoiser and offloads_blocks(self.settings)
            quantize = Quantizer(self.settings.base_precision, dtype, self.device, offloads)
        loaded = load_modules(
            self.model.working, denoiser=denoiser, vae=vae, text_encoder=text_encoder, dtype=dtype, quantize=quantize,
            device=device,
        )  # fmt: skip
        self.modules.parts |= loaded.parts
        self.modules.tokenizers |= loaded.tokenizers
        return self.modules

    def _take_vae(self) -> Any:
        """The VAE for encoding. ``self.modules`` does not refer to it, so that its memory is freed after encoding."""
        self._load(vae=True)
        return self.modules.parts.pop(self.modules.family.vae.name)

    def _in_order_of_use(self) -> list[Example]:
        """All examples, those of the first batches first."""
        batches = self.plan.epoch(self.settings.seed, 0, self.settings.train_batch_size)
        first = [example for batch in batches for example in (*batch.instances, *batch.classes)]
        return [*first, *self.plan.images()]

    def _load_text(self) -> None:
        """The text encoders, on the device."""
        if not self.modules.text_encoders:
            self._load(text_encoder=True, dtype=self._dtype(trains=False), device=self.device)
            for text_encoder in self.modules.text_encoders.values():
                text_encoder.to(self.device).eval()

    def _release_text_encoders(self) -> None:
        """Free the memory of text encoders: embedded prompts need them only for sampling. Not if captions vary.

        Trained ones move to the CPU, others are loaded again for sampling.
        """
        if self.plan.prompts_vary() and not self.settings.train_imagic:
            self._load_text()
        elif self.trains_text_encoder:
            for text_encoder in self.modules.text_encoders.values():
                text_encoder.to("cpu")
        elif self.modules.text_encoders:
            for name in self.modules.text_encoders:
                del self.modules.parts[name]
            free_memory()

    # -- while it runs ----------------------------------------------------------------------------------------

    def freeze_text_encoder(self) -> None:
        """Train only the denoiser from here on. Prompts are embedded again with the trained text encoder."""
        if isinstance(self.prompts, Imagic) or not self.prompts.trainable:
            return
        for text_encoder in self.modules.text_encoders.values():
            text_encoder.requires_grad_(False).eval()
            for parameter in text_encoder.parameters():
                parameter.grad = None  # a gradient of zeros would let momentum and decay go on moving it
        with self.inference_weights():
            self.prompts.freeze(self.plan.prompts(), None, self._load_text, self.accelerator.autocast)
        self._release_text_encoders()

    @contextlib.contextmanager
    def inference_weights(self, sampling: bool = False) -> Iterator[None]:
        """In the block the weights are those to save, or with ``sampling`` those to generate images with.

        See :func:`optimizers.inference_weights`; with ``sampling``, the EMA replaces them if it is used for inference.
        """
        ema = self.ema if sampling and self.settings.infer_ema else None
        if ema is None:
            with inference_weights(self.optimizer):
                yield
            return
        self.synchronize_weights()
        ema.swap()
        try:
            yield
        finally:
            self.synchronize_weights()
            ema.swap()

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """In the block, the modules are in eval mode, and CUDA graphs take no memory."""
        if self.graphs:
            self.graphs.release()
        with eval_mode(self.used_in_prediction()):
            yield

    def offloaded_activations(self) -> contextlib.AbstractContextManager[None]:
        """In the block, what a forward pass saves for the backward pass goes to main memory, if that is on."""
        return self.activation_offload.saving() if self.activation_offload else contextlib.nullcontext()

    def synchronize_weights(self) -> None:
        """Wait until the weights, also those in main memory, have their current values."""
        if self.offload:
            self.offload.synchronize()

    @contextlib.contextmanager
    def for_sampling(self) -> Iterator[Modules]:
        """The modules as they are now, ready for sampling; afterwards their state is restored.

        What is not on the device stays on the CPU: generate_images moves it there while it is used.
        """
        if self.modules.family.vae.name not in self.modules.parts:
            self._load(vae=True)
        if not self.modules.text_encoders:
            self._load(text_encoder=True, dtype=self._dtype(trains=False))
        try:
            without_adapter = without_training_adapter(self.modules.denoiser)
            with self.evaluating(), without_adapter, self.inference_weights(sampling=True):
                yield dataclasses.replace(self.modules, scheduler_config=self.sampling_scheduler_config())
        finally:
            if not self.prompts.trainable:
                self._release_text_encoders()

    def used_in_prediction(self) -> list[torch.nn.Module]:
        """The denoiser and the text encoders in memory."""
        return [self.modules.denoiser, *self.modules.text_encoders.values()]

    def sampling_scheduler_config(self) -> dict[str, Any]:
        """The scheduler config for previews. Without v-prediction, a timestep with zero SNR can't be sampled."""
        zero = self.settings.zero_terminal_snr and self.process.prediction_type == "v_prediction"
        return training_scheduler_config(self.modules.scheduler_config, zero)

    @property
    def denoiser(self) -> Denoiser:
        """Not stored elsewhere: references to its module end with :meth:`close`."""
        return self.modules.family.make_denoiser(self.modules.denoiser)

    def trained_tensors(self) -> dict[str, torch.Tensor]:
        """All trained tensors, by names that are the same in every run."""
        if self.settings.use_lora:
            return {
                f"{name}.{part}": value
                for name, layer in self.layers.items()
                for part, value in layer.trainable_parameters().items()
            }
        tensors = {}
        for part, module in self.trained_modules().items():
            tensors |= {f"{part}.{name}": tensor for name, tensor in module.named_parameters()}
        return tensors

    def trained_modules(self) -> dict[str, torch.nn.Module]:
        """The trained components, by name."""
        name = self.modules.family.denoiser.name
        denoiser = {name: self.modules.denoiser} if self.settings.train_unet else {}
        return denoiser | (self.modules.text_encoders if self.trains_text_encoder else {})

    def close(self) -> None:
        """Release all modules and free their memory, also for other programs."""
        if "latents" in self.__dict__:
            self.latents.close()
        for copies in (self.__dict__.get("offload"), self.__dict__.get("activation_offload")):
            if copies:
                copies.wait()
        for name in ("prompts", "imagic", "latents", "masked", "optimizer", "stepper", "ema", "offload",
                     "activation_offload", "layers", "adapter_groups", "graphs", "modules", "accelerator"):  # fmt: skip
            self.__dict__.pop(name, None)
        reset_accelerator()
        free_memory()


def _freeze_normalization(module: torch.nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, torch.nn.LayerNorm):
            part.requires_grad_(False)
