"""A small flow-matching family, registered by one object: what a new family needs, and nothing besides.

A transformer with grouped-query attention, a text encoder whose padding is masked, and a VAE without quantization
layers, each in a file of its own, with the traps of published families: a bare or prefixed denoiser file, a fused
projection of unequal parts, halves in another order, latents with shift, scale and statistics, packed 2 x 2, a buffer
that files don't have, and a prediction with the opposite sign.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import nn

from dreambooth.errors import UserError
from dreambooth.models import registry
from dreambooth.models.capabilities import FLOW_MATCHING, NO_CLIP, NO_CONVOLUTIONS, Capabilities, limited
from dreambooth.models.components import DENOISER, TEXT_ENCODER, VAE, Component
from dreambooth.models.conditioning import Conditioning, TextConditioner
from dreambooth.models.denoiser import Denoiser
from dreambooth.models.family import Configs, Family
from dreambooth.models.latents import LatentCodec
from dreambooth.models.layout import ComponentLayout, Layout, Shapes, strip_prefix
from dreambooth.models.prefixed import PrefixedTensors
from dreambooth.models.process import RectifiedFlow
from dreambooth.models.size_estimate import SizeEstimate
from dreambooth.models.transforms import IDENTITY, SWAP, Concat, Transform
from dreambooth.settings import Settings, creation
from dreambooth.tensor_files import Tensors, write_tensors
from tests.toy_modules import HEADS, START, ToyTextEncoder, ToyTransformer

PATCH = 2
MEAN, STD = (0.1, -0.2, 0.0, 0.3), (0.9, 1.1, 1.0, 0.8)


# -- conditioning and prediction ---------------------------------------------------------------------------------------


class ToyTokens(NamedTuple):
    """Bytes of prompts after a start token, padded to one length: ids (B, L) int64, mask (B, L) bool."""

    ids: torch.Tensor
    mask: torch.Tensor

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> ToyTokens:
        return ToyTokens(function(self.ids), function(self.mask))


class ToyConditioner(TextConditioner[ToyTokens]):
    sequences = ("states",)

    def __init__(self, text_encoders: Mapping[str, Any], tokenizers: Mapping[str, Any]) -> None:
        self.text_encoders = list(text_encoders.values())
        for tokenizer in tokenizers.values():
            self.start, self.max_tokens = tokenizer["start"], tokenizer["max_tokens"]

    def tokenize(self, prompts: Sequence[str]) -> ToyTokens:
        return self.join([self._tokens(prompt) for prompt in prompts])

    def _tokens(self, prompt: str) -> ToyTokens:
        ids = torch.tensor([[self.start, *prompt.encode()[: self.max_tokens]]])
        return ToyTokens(ids, torch.ones_like(ids, dtype=torch.bool))

    def join(self, batches: Sequence[ToyTokens]) -> ToyTokens:
        longest = max(batch.ids.shape[1] for batch in batches)
        padded = [batch.map(lambda part: F.pad(part, (0, longest - part.shape[1]))) for batch in batches]
        return ToyTokens(torch.cat([batch.ids for batch in padded]), torch.cat([batch.mask for batch in padded]))

    def part(self, tokens: ToyTokens, start: int, stop: int) -> ToyTokens:
        return tokens.map(lambda tensor: tensor[start:stop])

    def encode(self, tokens: ToyTokens) -> Conditioning:
        states = self.text_encoders[0](tokens.ids, tokens.mask)
        return Conditioning({"states": states}, tokens.mask, tuple(tokens.mask.sum(dim=1).tolist()))

    def count_with_overflow(self, prompts: Sequence[str]) -> list[tuple[int, str]]:
        return [
            (len(prompt.encode()), prompt.encode()[self.max_tokens :].decode(errors="ignore")) for prompt in prompts
        ]


class ToyDenoiser(Denoiser):
    def predict(
        self,
        noisy_latents: torch.Tensor,
        t: torch.Tensor,
        conditioning: Conditioning,
        extra_channels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        height, width = (side // PATCH for side in noisy_latents.shape[-2:])
        rows, columns = (torch.arange(side, device=noisy_latents.device) for side in (height, width))
        tokens = F.pixel_unshuffle(noisy_latents, PATCH).flatten(2).transpose(1, 2).to(self.dtype)
        time = (1 - t / 1000).to(noisy_latents.device).expand(len(noisy_latents))
        assert conditioning.mask is not None
        output = self.module(
            tokens, time, torch.cartesian_prod(rows, columns), conditioning["states"].to(self.dtype), conditioning.mask
        )
        return -F.pixel_shuffle(output.float().transpose(1, 2).unflatten(2, (height, width)), PATCH)


# -- names -------------------------------------------------------------------------------------------------------------

# Module names by those of the original code.
_TOP = {"img_in": "image_in", "txt_in": "text_in", "t_in": "time_in", "final": "out"}
_BLOCK = {"attn.out": "attention.to_out", "mlp.0": "up", "mlp.2": "down", "ada": "modulation"}
_QKV = ("attention.to_q", "attention.to_k", "attention.to_v")


class TransformerNames:
    """The original's query, key and value are one tensor; it has scale before shift."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        width, kv_width = config["width"], config["width"] // HEADS * config["kv_heads"]
        self.qkv = Concat((width, kv_width, kv_width))

    def to_modules(self, name: str) -> tuple[str, ...]:
        module, _, leaf = name.rpartition(".")
        if module in _TOP:
            return (f"{_TOP[module]}.{leaf}",)
        _, number, path = module.split(".", 2) if module.startswith("layers.") else ("", "", "")
        parts = _QKV if path == "attn.qkv" else (_BLOCK[path],) if path in _BLOCK else ()
        return tuple(f"blocks.{number}.{part}.{leaf}" for part in parts)

    def to_original(self, name: str) -> str | None:
        """The original name of a tensor or of a module."""
        for module, original in self._modules(name):
            if name == module or name.startswith(module + "."):
                return original + name.removeprefix(module)
        return None

    @staticmethod
    def _modules(name: str) -> list[tuple[str, str]]:
        if not name.startswith("blocks."):
            return [(module, original) for original, module in _TOP.items()]
        number = name.split(".")[1]
        pairs = [(module, original) for original, module in _BLOCK.items()] + [(part, "attn.qkv") for part in _QKV]
        return [(f"blocks.{number}.{module}", f"layers.{number}.{original}") for module, original in pairs]

    def transform(self, name: str) -> Transform:
        return self.qkv if name.endswith("attn.qkv.weight") else SWAP if ".ada." in name else IDENTITY


class SameNames:
    def to_modules(self, name: str) -> tuple[str, ...]:
        return (name,)

    def to_original(self, name: str) -> str | None:
        return name

    def transform(self, name: str) -> Transform:
        return IDENTITY


# -- the family --------------------------------------------------------------------------------------------------------


class ToyFamily(Family):
    model_type, title, base_model_version = "toy", "Toy Flow", "toy"
    default_prediction = "flow_prediction"
    references_sources = True
    components = (
        Component("transformer", DENOISER, "transformer", "model.diffusion_model."),
        Component("text_encoder", TEXT_ENCODER, "text encoder (toy)", "text_encoders.toy.", "model.safetensors",
                  "tokenizer", in_checkpoint=False),
        Component("vae", VAE, "VAE", "vae.", in_checkpoint=False),
    )  # fmt: skip
    capabilities = Capabilities(
        {**FLOW_MATCHING, **NO_CLIP, **NO_CONVOLUTIONS, **limited("its attention is that of torch alone", "attention")}
    )
    defaults: ClassVar = {
        "scheduler": "EulerDiscrete", "timestep_sampling": "logit_normal", "resolution": 64, "stop_text_encoder": 0.0,
    }  # fmt: skip

    # -- recognizing

    def with_original_names(self, file: Tensors) -> Tensors:
        """Denoiser files have no prefix or that of checkpoints."""
        is_bare = "layers.0.attn.qkv.weight" in file
        return PrefixedTensors(file, self.denoiser.prefix) if is_bare else file

    def component_keys(self, component: Component, file: Tensors) -> dict[str, str]:
        marker = {"text_encoder": "embed.weight", "vae": "decoder.conv_in.weight"}.get(component.name)
        if marker is None or marker not in file or (component.role == VAE and "post_quant_conv.weight" in file):
            return {}
        return {component.prefix + name: name for name in file}

    def matches(self, shapes: Shapes) -> bool:
        return self.denoiser.prefix + "layers.0.attn.qkv.weight" in shapes

    def matches_folder(self, configs: Configs) -> bool:
        return configs.get("transformer", {}).get("_class_name") == "ToyTransformer"

    # -- configs

    def configs(self, shapes: Shapes, metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        denoiser, text, vae = (strip_prefix(shapes, component.prefix) for component in self.components)
        width, channels = denoiser["img_in.weight"]
        text_width = denoiser["txt_in.weight"][1]
        kv_width = (denoiser["layers.0.attn.qkv.weight"][0] - width) // 2
        layers = len({key.split(".")[1] for key in denoiser if key.startswith("layers.")})
        configs: dict[str, dict[str, Any]] = {"transformer": {
            "_class_name": "ToyTransformer", "channels": channels, "width": width, "layers": layers,
            "text_width": text_width, "kv_heads": kv_width // (width // HEADS),
        }}  # fmt: skip
        if text:
            if (own := text["embed.weight"][1]) != text_width:
                raise UserError(
                    f"its transformer expects text embeddings of width {text_width}, its text encoder has width {own}: "
                    "use another text encoder"
                )
            configs["text_encoder"] = {"width": text_width}
        return {**configs, "vae": _vae_config(vae)} if vae else configs

    def make_module(self, name: str, config: Mapping[str, Any]) -> nn.Module:
        makers = {"transformer": ToyTransformer, "text_encoder": ToyTextEncoder, "vae": AutoencoderKL}
        with torch.device("meta"):
            return makers[name](**{key: value for key, value in config.items() if not key.startswith("_")})

    def rebuild_buffer(self, name: str, buffer: torch.Tensor) -> torch.Tensor:
        return 0.9 ** torch.arange(64.0) if name == "decay" else super().rebuild_buffer(name, buffer)

    def load_tokenizer(self, folder: Path) -> Any:
        return json.loads((folder / "tokenizer.json").read_text())

    def write_tokenizers(self, working: Path, configs: Configs) -> None:
        (working / "tokenizer").mkdir()
        (working / "tokenizer" / "tokenizer.json").write_text(json.dumps({"start": START, "max_tokens": 48}))

    def layout(self, configs: Configs) -> Layout:
        others = [ComponentLayout(component, SameNames()) for component in self.components[1:]]
        return Layout([ComponentLayout(self.denoiser, TransformerNames(configs["transformer"])), *others], "")

    def scheduler_config(self, prediction_type: str, shapes: Shapes, metadata: Mapping[str, str]) -> dict[str, Any]:
        return {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}

    # -- what it is made of

    def process(self, scheduler: Mapping[str, Any], device: torch.device | str = "cpu") -> RectifiedFlow:
        return RectifiedFlow(scheduler, device, PATCH)

    def latent_codec(self, vae: Mapping[str, Any]) -> LatentCodec:
        downscale = 2 ** (len(vae["block_out_channels"]) - 1)
        return LatentCodec(
            vae["latent_channels"], downscale, PATCH, vae["scaling_factor"], vae["shift_factor"], MEAN, STD
        )

    def text_conditioner(
        self, text_encoders: Mapping[str, Any], tokenizers: Mapping[str, Any], prompt_encoding: Any
    ) -> ToyConditioner:
        return ToyConditioner(text_encoders, tokenizers)

    def make_denoiser(self, module: Any) -> ToyDenoiser:
        return ToyDenoiser(module)

    def size_estimate(self, n_denoiser: int) -> SizeEstimate:
        return SizeEstimate(reference_parameters=1e4)

    def architecture(self, denoiser: Mapping[str, Any]) -> str:
        return "toy-flow"

    def ss_values(self, settings: Settings) -> dict[str, Any]:
        return {"ss_timestep_sampling": settings.timestep_sampling}


def _vae_config(vae: Shapes) -> dict[str, Any]:
    levels = sorted({key.split(".")[2] for key in vae if key.startswith("encoder.down_blocks.")})
    channels = [vae[f"encoder.down_blocks.{i}.resnets.0.conv1.weight"][0] for i in levels]
    return {
        "_class_name": "AutoencoderKL", "latent_channels": vae["decoder.conv_in.weight"][1],
        **_vae_levels(channels), "norm_num_groups": 4, "scaling_factor": 0.36, "shift_factor": 0.12,
    }  # fmt: skip


def _vae_levels(channels: list[int]) -> dict[str, Any]:
    return {
        "block_out_channels": channels, "down_block_types": ["DownEncoderBlock2D"] * len(channels),
        "up_block_types": ["UpDecoderBlock2D"] * len(channels), "use_quant_conv": False, "use_post_quant_conv": False,
    }  # fmt: skip


@contextlib.contextmanager
def registered() -> Iterator[ToyFamily]:
    """The family, registered as another package would do it, and forgotten after the block."""
    titles, types, family = {**creation.FAMILIES}, [*creation.MODEL_TYPES], ToyFamily()
    registry.register(family)
    try:
        yield family
    finally:
        registry.FAMILIES.remove(family)
        creation.MODEL_TYPES[:] = types
        creation.FAMILIES.clear()
        creation.FAMILIES.update(titles)


# -- files -------------------------------------------------------------------------------------------------------------


class ToyFiles(NamedTuple):
    denoiser: Path
    text_encoder: Path
    vae: Path


def write_files(folder: Path, *, prefix: str = "model.diffusion_model.", width: int = 32, text_width: int = 16,
                seed: int = 0) -> ToyFiles:  # fmt: skip
    """Three files with random weights. ``prefix``: of the denoiser's tensors."""
    config = {"channels": 16, "width": width, "layers": 2, "text_width": text_width, "kv_heads": 2}
    vae_config = {"latent_channels": 4, "norm_num_groups": 4, **_vae_levels([8, 8, 8, 8])}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        denoiser, text_encoder, vae = ToyTransformer(**config), ToyTextEncoder(text_width), AutoencoderKL(**vae_config)
    names, weights = TransformerNames(config), denoiser.state_dict()
    originals = dict.fromkeys(names.to_original(name) or "" for name in weights)
    tensors = {name: names.transform(name).join([weights[part] for part in names.to_modules(name)])
               for name in originals}  # fmt: skip
    tensors["unused"] = torch.full((3,), 0.5)
    files = ToyFiles(*(folder / f"{name}.safetensors" for name in ("toy", "toy_text_encoder", "toy_vae")))
    write_tensors(files.denoiser, {prefix + name: tensor.half() for name, tensor in tensors.items()}, {})
    write_tensors(files.text_encoder, text_encoder.state_dict(), {})
    write_tensors(files.vae, vae.state_dict(), {})
    return files


if __name__ == "__main__":  # the page, with the family
    from dreambooth.ui.__main__ import main

    registry.register(ToyFamily())
    main()
