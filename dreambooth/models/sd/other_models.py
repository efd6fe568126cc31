"""Models that can't be trained here, by name: what a file or folder is, and what to choose instead."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dreambooth.models.layout import Shapes
from dreambooth.models.sd.keys import UNET
from dreambooth.text import count

_SUPPORTED = "choose a checkpoint of Stable Diffusion 1.x, 2.x or XL, Z-Image, Anima, FLUX.2 klein, FLUX.1 or Chroma"

Matches = Callable[[Shapes], bool]


def unsupported_variant(shapes: Shapes) -> str | None:
    """What a checkpoint is that has the layout of a supported family, but another training target or conditioning."""
    return next((text for matches, text in _VARIANTS if matches(shapes)), None)


def describe(shapes: Shapes) -> str:
    """What a file of no supported family is, and what to choose instead."""
    for matches, text in (*_VARIANTS, *_OTHERS):
        if matches(shapes):
            return text
    n_tensors = count(len(shapes), "tensor")
    return f"not a known kind of model ({n_tensors}, the first is {next(iter(shapes))}): {_SUPPORTED}"


def describe_kind(shapes: Shapes) -> str:
    """The same in a few words: "a LoRA", "a VAE"."""
    return re.split(r"[,:(]", describe(shapes))[0].strip()


def describe_folder(index: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]]) -> str | None:
    """What a diffusers folder is whose model can't be trained here; None when its configs don't say."""
    unet, scheduler = configs.get("unet", {}), configs.get("scheduler", {})
    pipeline, scheduler_class = str(index.get("_class_name", "")), str(scheduler.get("_class_name", ""))
    if scheduler_class.startswith("EDM"):
        return _COSXL if scheduler.get("prediction_type") == "v_prediction" else _PLAYGROUND
    if configs.get("vae", {}).get("latents_mean") and "text_encoder_2" in configs:  # with another scheduler
        return _PLAYGROUND
    if unet.get("time_cond_proj_dim"):
        return _LCM
    if "unclip" in pipeline.lower() or unet.get("class_embed_type") == "projection":
        return _UNCLIP
    for word, text in _PIPELINES:
        if word in pipeline:
            return text
    if scheduler.get("trained_betas"):
        return _later("a model with a noise schedule of its own (trained_betas)")
    if scheduler_class.startswith("FlowMatch"):
        return _later("a flow-matching model")
    if unet.get("encoder_hid_dim_type"):
        return _later("a model with other text encoders (Kolors, Kandinsky)")
    channels = {8: "an instruct-pix2pix model", 7: "an upscaler", 5: "a depth-to-image model"}
    return _later(channels[unet["in_channels"]]) if unet.get("in_channels") in channels else None


def _starts(*prefixes: str) -> Matches:
    return lambda shapes: any(key.startswith(prefixes) for key in shapes)


def _holds(*parts: str) -> Matches:
    return lambda shapes: any(part in key for key in shapes for part in parts)


def _has(*keys: str) -> Matches:
    return lambda shapes: any(key in shapes for key in keys)


def _all(*conditions: Matches) -> Matches:
    return lambda shapes: all(matches(shapes) for matches in conditions)


def _only(*prefixes: str) -> Matches:
    return lambda shapes: all(key.startswith(prefixes) for key in shapes)


def _ends(*endings: str) -> Matches:
    return lambda shapes: any(key.endswith(endings) for key in shapes)


def _conv_in(channels: int) -> Matches:
    def matches(shapes: Shapes) -> bool:
        return shapes.get(UNET + "input_blocks.0.0.weight", (0, 0))[1:2] == (channels,)

    return matches


def _img_in(channels: int) -> Matches:
    """Whether the tokens of a FLUX.1 transformer have so many channels."""
    own = {UNET + "img_in.weight", UNET + "vector_in.in_layer.weight"}
    return lambda shapes: own <= shapes.keys() and shapes[UNET + "img_in.weight"][1:] == (channels,)


def _takes_image_embeddings(shapes: Shapes) -> bool:
    """Whether the vector conditioning of the UNet is a CLIP image embedding and its noise level, as in unCLIP."""
    return shapes.get(UNET + "label_emb.0.0.weight", (0, 0))[1:] in ((1536,), (2048,))


def _later(name: str, instead: str = _SUPPORTED) -> str:
    return f"{name}, which can't be trained here: {instead}"


def _kinds(names: Iterable[tuple[str, str]]) -> tuple[tuple[Matches, str], ...]:
    return tuple((_holds(part), _later(name)) for part, name in names)


_XL_BASE = "choose the checkpoint of SDXL, or one made from it that predicts noise or velocity"
_PLAYGROUND = _later("a Playground v2.5 model (EDM: it is trained with a noise scale of its own)", _XL_BASE)
_COSXL = _later("a CosXL model (EDM with v-prediction: it is trained with a noise scale of its own)", _XL_BASE)
_LCM = _later(
    "a latent consistency model (LCM: distilled, its UNet also takes the guidance scale)",
    "choose the checkpoint that it was distilled from, and use an LCM LoRA with the result",
)
_UNCLIP = _later(
    "a Stable Diffusion 2.1 unCLIP model (its UNet is also conditioned on image embeddings)",
    "choose a checkpoint of Stable Diffusion 2.1",
)
_INSTRUCT = "an instruct-pix2pix checkpoint (its UNet takes 8 channels: the image to edit is one of its inputs)"

_FILL = "a FLUX.1 Fill model (inpainting: its transformer also takes the mask and the masked image)"
_CONTROL = "a FLUX.1 Depth or Canny model (its transformer also takes a control image)"
_FLUX_BASE = "choose FLUX.1 dev or FLUX.1 Krea-dev"

_QUANTIZED = "which can't be trained: use the checkpoint that it was made from (fp32, fp16, bf16 or plain fp8)"
# Checked before the families, whose layout these have too.
_VARIANTS: tuple[tuple[Matches, str], ...] = (
    (_ends(".wscales", ".qweight", ".smooth_factor"), f"a model quantized by nunchaku (SVDQuant), {_QUANTIZED}"),
    (_ends(".absmax", ".bitsandbytes__nf4", ".bitsandbytes__fp4"), f"a model quantized to 4 bits (nf4), {_QUANTIZED}"),
    (_has("edm_vpred.sigma_max", "edm_vpred.sigma_min"), _COSXL),
    (_has("edm_mean", "edm_std"), _PLAYGROUND),
    (_holds("time_embed.cond_proj.", "time_embedding.cond_proj."), _LCM),
    (_starts("noise_augmentor.", "embedder.model."), _UNCLIP),
    (_all(_takes_image_embeddings, _starts("cond_stage_model.")), _UNCLIP),
    (_all(_starts(UNET + "input_blocks."), _holds(".time_stack.", ".time_mix_blocks.", ".time_mixer.")),
     _later("a video model (Stable Video Diffusion)")),
    (_starts(UNET + "encoder_hid_proj.", "encoder_hid_proj."), _later("a Kolors model")),
    (_holds("cc_projection."), _later("a Zero123 checkpoint")),
    (_starts("cond_stage_model.roberta."), _later("an AltDiffusion checkpoint")),
    (_all(_conv_in(8), _starts("conditioner.")), _later(f"{_INSTRUCT} of SDXL")),
    (_conv_in(8), _later(_INSTRUCT)),
    (_conv_in(7), _later("an upscaler checkpoint of Stable Diffusion 2 (its UNet takes 7 channels)")),
    (_img_in(384), _later(_FILL, _FLUX_BASE)),
    (_img_in(128), _later(_CONTROL, _FLUX_BASE)),
    (_conv_in(5), _later("a depth-to-image checkpoint of Stable Diffusion 2 (its UNet takes 5 channels)")),
)  # fmt: skip

_LORA = (
    f"a LoRA, not a checkpoint: {_SUPPORTED} to train on. To continue the training of a LoRA, select it in the "
    "parameters of the model (lora_start); Generate Ckpt (--lora) merges it"
)
_VAE = f"a VAE, not a checkpoint: {_SUPPORTED}; a VAE can replace its own (option VAE, --vae)"
_EMBEDDING = (
    f"a textual inversion embedding, not a checkpoint: {_SUPPORTED}. The embedding belongs in the WebUI's folder "
    "embeddings; it can't be trained here"
)

# Transformers of later families, by a part of a name that no other family has; the most specific first.
_TRANSFORMERS = (
    ("txt_in.individual_token_refiner.", "a Hunyuan Video model"),
    ("nerf_image_embedder.", "a Chroma Radiance model"),
    ("distilled_guidance_layer.", "a Chroma model"),
    ("double_stream_modulation_", "a FLUX.2 [dev] model"),
    ("double_blocks.", "a FLUX model"),
    ("double_stream", "a FLUX model"),
    ("single_transformer_blocks.", "a FLUX model"),
    ("joint_blocks.", "a Stable Diffusion 3 model"),
    ("joint_transformer_blocks.", "a Stable Diffusion 3 model"),
    ("txtfusion.projector.", "a Krea 2 model"),
    ("text_fusion.projector.", "a Krea 2 model"),
    ("txt_norm.", "a Qwen-Image model"),
    ("layers.0.mlp.linear_fc2.", "an ERNIE-Image model"),
    ("attn.add_q_proj.", "a Stable Diffusion 3 model"),
    ("clip_txt_mapper.", "a Stable Cascade model"),
    ("clip_mapper.", "a Stable Cascade model"),
    ("double_layers.0.attn.w1q.", "an AuraFlow model"),
    ("mlp_t5.0.", "a Hunyuan-DiT model"),
    ("t5_yproj.", "a Mochi model"),
    ("llm_adapter.", "an Anima model without its transformer"),
    ("adaln_modulation_self_attn.", "a Cosmos model"),
    ("cross_attn.norm_q.", "a Wan model"),
    ("cap_embedder.", "a Lumina model"),
    ("y_embedder.y_embedding", "a PixArt model"),
    ("adaln_single.", "a PixArt or LTX model"),
    ("transformer.rotary_pos_emb.", "an audio model"),
)  # fmt: skip

# Checked from top to bottom, the most specific first.
_OTHERS: tuple[tuple[Matches, str], ...] = (
    (_holds("lora_unet_", "lora_te", "lora_down.", "lora.down.", "lora_A.", ".lora_linear_layer.", ".hada_w1_",
            ".lokr_w", ".oft_", ".processor."), _LORA),
    (_starts("control_model.", "controlnet_", "input_hint_block"), f"a ControlNet, not a checkpoint: {_SUPPORTED}"),
    (_holds("motion_modules."), f"a motion module, not a checkpoint: {_SUPPORTED}"),
    (_starts("ip_adapter.", "image_proj."), f"an IP-Adapter, not a checkpoint: {_SUPPORTED}"),
    (_starts("vision_model."), f"an image encoder, not a checkpoint: {_SUPPORTED}"),
    *_kinds(_TRANSFORMERS),
    (_starts("conditioner.embedders.0.open_clip."), _later("a video model (Stable Video Diffusion)")),
    (_starts("conditioner.embedders.0.model."), _later("an SDXL refiner", "choose the checkpoint of SDXL base")),
    (_only("model_ema."), "the EMA weights of a UNet (model_ema.*) without its regular weights, VAE and text "
     "encoder: use the complete checkpoint"),
    (_starts("model_ema."), "a checkpoint whose UNet is stored only as EMA weights (model_ema.*): use a version of it "
     "with the regular weights (model.diffusion_model.*)"),
    (_all(_starts("unet."), _starts("vae.", "text_encoder.")), "a diffusers pipeline in one file: use the diffusers "
     "folder, or convert it to a checkpoint in the original layout"),
    (_starts("model.diffusion_model."), _later("a checkpoint of an unknown family")),
    (_starts("string_to_param", "emb_params", "clip_l", "clip_g", "bundle_emb.", "<"), _EMBEDDING),
    (_starts("first_stage_model.", "decoder.conv_in.", "decoder.mid"), _VAE),
    (_starts("encoder.block.", "shared.weight"), f"a T5 text encoder, not a checkpoint: {_SUPPORTED}"),
    (
        _starts("cond_stage_model.", "text_model.", "transformer.text_model.", "encoder.layers.", "conditioner."),
        f"a text encoder, not a checkpoint: {_SUPPORTED}",
    ),
    (
        _starts("input_blocks.", "diffusion_model."),
        f"a UNet without VAE and text encoder: {_SUPPORTED} that has all three",
    ),
    (
        _starts("down_blocks.", "time_embedding.", "conv_in."),
        "one component of a diffusers model: choose the folder with model_index.json instead",
    ),
    (
        _starts("model.1.sub.", "model.0.", "conv_first.", "RRDB_trunk.", "body.", "params_ema."),
        f"an upscaler, not a checkpoint: {_SUPPORTED}",
    ),
    (lambda shapes: len(shapes) <= 2, f"too small for a checkpoint (an embedding, perhaps): {_SUPPORTED}"),
)  # fmt: skip

# Parts of the class names of diffusers' pipelines.
_PIPELINES = tuple(
    (word, _later(name))
    for word, name in (
        ("LatentConsistency", "a latent consistency model (LCM)"),
        ("StableDiffusionXLInstructPix2Pix", "an instruct-pix2pix model of SDXL"),
        ("InstructPix2Pix", "an instruct-pix2pix model"),
        ("Upscale", "an upscaler"),
        ("Depth2Img", "a depth-to-image model"),
        ("StableDiffusion3", "a Stable Diffusion 3 model"),
        ("StableCascade", "a Stable Cascade model"),
        ("Wuerstchen", "a Würstchen model"),
        ("StableVideo", "a video model (Stable Video Diffusion)"),
        ("AnimateDiff", "a video model (AnimateDiff)"),
        ("FluxFill", "a FLUX.1 Fill model"),
        ("FluxKontext", "a FLUX.1 Kontext model"),
        ("FluxControl", "a FLUX.1 Depth or Canny model"),
        ("Flux", "a FLUX model"),
        ("PixArt", "a PixArt model"),
        ("AuraFlow", "an AuraFlow model"),
        ("HunyuanDiT", "a Hunyuan-DiT model"),
        ("Kandinsky", "a Kandinsky model"),
        ("Kolors", "a Kolors model"),
        ("Chroma", "a Chroma model"),
        ("QwenImage", "a Qwen-Image model"),
        ("Krea2", "a Krea 2 model"),
        ("ErnieImage", "an ERNIE-Image model"),
        ("ZImage", "a Z-Image model with image inputs (Omni)"),
        ("Lumina", "a Lumina model"),
        ("Sana", "a Sana model"),
        ("Wan", "a Wan model"),
        ("LTX", "an LTX model"),
        ("IFPipeline", "a DeepFloyd IF model"),
        ("AltDiffusion", "an AltDiffusion model"),
        ("Audio", "an audio model"),
    )
)
