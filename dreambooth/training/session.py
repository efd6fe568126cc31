"""Everything a run works with, put together in order: inputs, modules, what learns, what moves it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch

from dreambooth.checkpoints.modules import Modules, fingerprint, load_modules
from dreambooth.checkpoints.stable_diffusion import INPAINTING_CHANNELS
from dreambooth.checkpoints.tokens import Reading
from dreambooth.dataset.cache import LatentCache, TextCache
from dreambooth.dataset.plan import Example, Plan
from dreambooth.distributed import SINGLE_PROCESS, ProcessGroup
from dreambooth.errors import UserError
from dreambooth.files import read_json
from dreambooth.jobs import Controls, Events
from dreambooth.settings import ModelConfig, ModelFolder
from dreambooth.training.adapters import AdapterLayer, adapter_config_of, inject
from dreambooth.training.attention import use_attention
from dreambooth.training.dropout import AdapterDropout
from dreambooth.training.ema import EMA
from dreambooth.training.imagic import Imagic
from dreambooth.training.inpainting import InpaintingInputs
from dreambooth.training.inputs import Latents
from dreambooth.training.loss_masks import LossMasks
from dreambooth.training.noise import NoiseSchedule, trained_with
from dreambooth.training.optimizers import Stepper, as_used, make_optimizer, parameter_groups
from dreambooth.training.precision import (
    compute_dtype,
    forget_accelerator,
    free_memory,
    is_pure_bf16,
    make_accelerator,
)
from dreambooth.training.prompts import Prompts
from dreambooth.training.snapshot import Position

AVERAGES_IN = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Session:
    """A run's modules and state, from loading to giving the memory back."""

    def __init__(
        self,
        model: ModelFolder,
        config: ModelConfig,
        plan: Plan,
        device: torch.device,
        precision: str,
        controls: Controls,
        events: Events,
        process_group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.model, self.config, self.plan = model, config, plan
        self.settings = config.settings
        self.device, self.precision = device, precision
        self.controls, self.events, self.process_group = controls, events, process_group
        self.trains_text = self.settings.stop_text_encoder > 0
        self.modules = load_modules(model.working, unet=False, vae=False, text_encoder=False)
        self.layers: dict[str, AdapterLayer] = {}
        self.dropout = AdapterDropout(self.settings.seed)
        self.ema: EMA | None = None
        self.imagic: Imagic | None = None
        self.position = Position()
        try:
            self.accelerator = make_accelerator(device, precision)
            self._prepare_inputs()
            self._prepare_modules()
        except BaseException:
            self.close()
            raise

    # -- building ---------------------------------------------------------------------------------------------

    def _prepare_inputs(self) -> None:
        model, working = self.model, self.model.working
        self.events.phase("latents")
        cache = LatentCache(model.cache / "latents", fingerprint(working, "vae"))
        scaling_factor = read_json(working / "vae" / "config.json")["scaling_factor"]
        self.latents = Latents(cache, scaling_factor, self.device)
        in_background = self.device.type == "cpu"  # where the loop itself looks at Cancel
        progress = self.events.progress if in_background else self.controls.cancellable(self.events.progress)
        with contextlib.nullcontext() if in_background else self.process_group.main_first():
            self.latents.prepare(self._in_order_of_use(), self._take_vae, progress)
        inpaints = read_json(working / "unet" / "config.json")["in_channels"] == INPAINTING_CHANNELS
        self.masked = InpaintingInputs(self._take_vae, self.device) if inpaints else None
        self.loss_masks = LossMasks(self.settings.unmasked_weight, self.device) if self.settings.masked_loss else None
        self.events.phase("text embeddings")
        reading = Reading.of(self.settings, training=True)
        self.prompts: Prompts | Imagic
        self.prompts = prompts = Prompts(self.modules, reading, self.settings.pad_tokens, self.device)
        if self.trains_text:
            self._load(text_encoder=True, dtype=self._dtype(learns=True))
            prompts.learn()
        else:
            # Embeddings differ with the precision they were computed in.
            prints = " ".join(fingerprint(working, part) for part in self.modules.family.text_prefixes)
            origin = f"{prints} {self._dtype(learns=False)} {self.device.type}"
            texts = TextCache(model.cache / "text", origin, reading)
            prompts.freeze(self.plan.prompts(), texts, self._load_text)
            self._put_text_encoder_aside()
        if self.settings.train_imagic:
            self.prompts = self.imagic = Imagic.of(self.plan, prompts)

    def _prepare_modules(self) -> None:
        self.events.phase("unet")
        settings = self.settings
        unet = self._load(unet=True, dtype=self._dtype(settings.train_unet)).unet
        use_attention(unet, settings.attention)
        scheduler = trained_with(self.modules.scheduler_config, settings.zero_terminal_snr)
        self.schedule = NoiseSchedule(scheduler, self.device)
        of_unet = self._make_learn("unet", unet, settings.train_unet)
        learning = self.modules.text_encoders if self.trains_text else {}
        of_text = [p for name, encoder in learning.items() for p in self._make_learn(name, encoder, True)]
        groups = parameter_groups(settings, of_unet, of_text)
        if not groups:
            raise UserError("Nothing would learn: switch on Train UNET or raise the text encoder's step ratio.")
        if settings.use_ema and settings.train_unet and not settings.use_lora:
            dtype = AVERAGES_IN[settings.ema_precision]
            self.ema = EMA(of_unet, settings.ema_decay, settings.ema_on_cpu, dtype=dtype, seed=settings.seed)
        self.optimizer = make_optimizer(settings, groups)
        self.stepper = Stepper(self.optimizer, settings, self.accelerator.scaler)

    def _make_learn(self, name: str, module: torch.nn.Module, learns: bool) -> list[torch.nn.Parameter]:
        """Freeze ``module`` or what of it does not learn; returns the parameters that do."""
        settings, lora = self.settings, self.settings.use_lora
        module.requires_grad_(learns and not lora)
        in_backward = learns or name == "unet"  # the text encoder's gradients pass through the unet
        module.to(self.device).train(in_backward)
        if in_backward and settings.gradient_checkpointing:
            _checkpoint_gradients(module)
        if not learns:
            return []
        if not lora:
            if name != "unet" and settings.freeze_clip_normalization:
                _freeze_normalisation(module)
            return [parameter for parameter in module.parameters() if parameter.requires_grad]
        form = adapter_config_of(settings, name)
        layers = inject(module, name, form, self.modules.layout, settings.seed, self.dropout)
        self.layers |= layers
        return [parameter for layer in layers.values() for parameter in layer.learned().values()]

    def _dtype(self, learns: bool) -> torch.dtype:
        """Weights that move are kept in float32, or small steps would be rounded away; others may be smaller.

        In bfloat16 alone, rounding by lot keeps what small steps come to.
        """
        moves = learns and not self.settings.use_lora and not is_pure_bf16(self.settings)
        return torch.float32 if moves else compute_dtype(self.precision)

    def _load(
        self, *, unet: bool = False, vae: bool = False, text_encoder: bool = False, dtype: torch.dtype = torch.float32
    ) -> Modules:
        """Load what is asked for into ``self.modules``."""
        loaded = load_modules(self.model.working, unet=unet, vae=vae, text_encoder=text_encoder, dtype=dtype)
        for part in dataclasses.fields(loaded):
            value = getattr(loaded, part.name)
            if value is not None:
                setattr(self.modules, part.name, value)
        return self.modules

    def _take_vae(self) -> Any:
        """The VAE for encoding; not kept, so that its memory is free once all latents are there."""
        vae, self.modules.vae = self._load(vae=True).vae, None
        return vae

    def _in_order_of_use(self) -> list[Example]:
        """All examples, those of the first batches first."""
        batches = self.plan.epoch(self.settings.seed, 0, self.settings.train_batch_size)
        first = [example for batch in batches for example in (*batch.instances, *batch.classes)]
        return [*first, *self.plan.pictures()]

    def _load_text(self) -> None:
        """The text encoders, on the device."""
        if not self.modules.text_encoders:
            self._load(text_encoder=True, dtype=self._dtype(learns=False))
            for text_encoder in self.modules.text_encoders.values():
                text_encoder.to(self.device).eval()

    def _put_text_encoder_aside(self) -> None:
        """Out of the GPU's memory: once prompts are embedded, it is only needed to draw. Not where prompts vary."""
        if self.plan.words_vary() and not self.settings.train_imagic:
            self._load_text()
            return
        for text_encoder in self.modules.text_encoders.values():
            text_encoder.to("cpu")

    # -- while it runs ----------------------------------------------------------------------------------------

    def freeze_text_encoder(self) -> None:
        """From here on only the unet learns; prompts are embedded once more with what was learnt."""
        if isinstance(self.prompts, Imagic) or not self.prompts.learning:
            return
        for text_encoder in self.modules.text_encoders.values():
            text_encoder.requires_grad_(False).eval()
            for parameter in text_encoder.parameters():
                parameter.grad = None  # a gradient of zeros would let momentum and decay go on moving it
        with self.as_used():
            self.prompts.freeze(self.plan.prompts(), None, self._load_text, self.accelerator.autocast)
        self._put_text_encoder_aside()

    @contextlib.contextmanager
    def as_used(self, drawing: bool = False) -> Iterator[None]:
        """Inside it the weights are those to save, or to draw with; see :func:`optimizers.as_used`."""
        average = self.ema if drawing and self.settings.infer_ema else None
        if average is None:
            with as_used(self.optimizer):
                yield
            return
        average.swap()
        try:
            yield
        finally:
            average.swap()

    @contextlib.contextmanager
    def for_drawing(self) -> Iterator[Modules]:
        """The modules as they are now, ready to draw with; everything is put back afterwards."""
        vae = self._load(vae=True).vae if self.modules.vae is None else self.modules.vae
        self._load_text()
        text_encoders = self.modules.text_encoders.values()
        modes = {m: m.training for m in (self.modules.unet, *text_encoders)}
        try:
            for module in modes:
                module.eval()
            for module in (*text_encoders, vae):
                module.to(self.device)
            with self.as_used(drawing=True):
                yield dataclasses.replace(self.modules, scheduler_config=self.drawn_with())
        finally:
            vae.to("cpu")
            if not self.prompts.learning:
                self._put_text_encoder_aside()
            for module, mode in modes.items():
                module.train(mode)

    def drawn_with(self) -> dict[str, Any]:
        """The scheduler config for previews. Noise prediction has no answer to a step with nothing of the picture."""
        zero = self.settings.zero_terminal_snr and self.schedule.prediction_type == "v_prediction"
        return trained_with(self.modules.scheduler_config, zero)

    def trained_tensors(self) -> dict[str, torch.Tensor]:
        """All that has learnt, by a name that stays the same over runs."""
        if self.settings.use_lora:
            return {
                f"{name}.{part}": value
                for name, layer in self.layers.items()
                for part, value in layer.learned().items()
            }
        learnt = {}
        for part, module in self.trained_modules().items():
            learnt |= {f"{part}.{name}": tensor for name, tensor in module.named_parameters()}
        return learnt

    def trained_modules(self) -> dict[str, torch.nn.Module]:
        """The components that learn, by name."""
        unet = {"unet": self.modules.unet} if self.settings.train_unet else {}
        return unet | (self.modules.text_encoders if self.trains_text else {})

    def close(self) -> None:
        """Let go of all modules and give the memory back, also to other programs."""
        if "latents" in self.__dict__:
            self.latents.close()
        for name in ("prompts", "imagic", "latents", "masked", "optimizer", "stepper", "ema", "layers", "modules",
                     "accelerator"):  # fmt: skip
            self.__dict__.pop(name, None)
        forget_accelerator()
        free_memory(self.device)


def _freeze_normalisation(module: torch.nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, torch.nn.LayerNorm):
            part.requires_grad_(False)


def _checkpoint_gradients(module: Any) -> None:
    if hasattr(module, "enable_gradient_checkpointing"):  # diffusers
        module.enable_gradient_checkpointing()
    elif hasattr(module, "activation_checkpointing_enable"):  # transformers from 5.20 on
        module.activation_checkpointing_enable()
    else:
        # transformers before 4.35 has only the reentrant kind, which loses adapters' gradients: better none
        with contextlib.suppress(TypeError):
            module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
