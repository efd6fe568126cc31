"""The first LoRA format (github.com/cloneofsimo/lora): modules have no names, only their order.

A ``.safetensors`` file has the keys ``unet:0:up``, ``unet:0:down``, ``text_encoder:0:up``, ...; a ``.pt`` file is a
list of alternating up and down matrices of one component. The order is that of the modules in the diffusers and
transformers of that time: in the UNet all down blocks, then the up blocks, then the middle one (it was assigned last).
In a transformer block the projection of the feed-forward layer, if adapted, comes between the two attentions (older
versions of diffusers) or after them. There is no alpha: the delta is up @ down.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from dreambooth.errors import UserError
from dreambooth.models.layout import Shape

_KEY = re.compile(r"(unet|text_encoder):(\d+):(up|down)")
_ATTENTION = ("to_q", "to_k", "to_v", "to_out_0")
_FEED_FORWARD = "ff_net_0_proj"
_TEXT_ATTENTION = ("k_proj", "v_proj", "q_proj", "out_proj")  # the order of their creation in transformers
_BLOCKS = (
    *(f"down_blocks_{level}_attentions_{layer}" for level in range(3) for layer in range(2)),
    *(f"up_blocks_{level}_attentions_{layer}" for level in range(1, 4) for layer in range(3)),
    "mid_block_attentions_0",
)
_SUPPORTED = (
    "use a LoRA of the attention layers of Stable Diffusion 1 or 2, or convert it with the program that made it"
)


def is_ordered(keys: Mapping[str, object]) -> bool:
    """Whether the keys are those of this format; embeddings (``<token>``) may be among them."""
    names = [key for key in keys if not key.startswith("<")]
    return bool(names) and (all(map(_KEY.fullmatch, names)) or all(name.isdecimal() for name in names))


def ordered_keys(path: object, shapes: Mapping[str, Shape]) -> dict[str, tuple[str, str]]:
    """Module and tensor name of every key. UserError when the order of the modules is not a known one."""
    pairs: dict[str, dict[int, dict[str, str]]] = {}
    for component, number, side, key in _entries(shapes):
        pairs.setdefault(component, {}).setdefault(number, {})[side] = key
    keys = {}
    for component, by_number in pairs.items():
        modules = [by_number[number] for number in sorted(by_number)]
        names = None
        if all(len(pair) == 2 for pair in modules):
            downs_ups = [(shapes[pair["down"]], shapes[pair["up"]]) for pair in modules]
            names = _unet_names(downs_ups) if component == "unet" else _text_encoder_names(len(modules))
        if names is None:
            raise UserError(f"{path} is a LoRA in the format of cloneofsimo/lora whose {len(modules)} modules "
                            f"({component}) have no names: {_SUPPORTED}.")  # fmt: skip
        for name, pair in zip(names, modules, strict=True):
            keys |= {key: (name, f"lora_{side}.weight") for side, key in pair.items()}
    return keys


def _entries(shapes: Mapping[str, Shape]) -> Iterator[tuple[str, int, str, str]]:
    """Component, number of the module, up or down, and key."""
    for key in shapes:
        if match := _KEY.fullmatch(key):
            yield match[1], int(match[2]), match[3], key
    listed = [key for key in shapes if key.isdecimal()]
    # The modules of a text encoder are all of one size, those of a UNet of several.
    component = "text_encoder" if len({shapes[key] for key in listed}) <= 2 else "unet"
    for key in listed:
        yield component, int(key) // 2, "down" if int(key) % 2 else "up", key


def _unet_names(downs_ups: list[tuple[Shape, Shape]]) -> list[str] | None:
    n_modules, rest = divmod(len(downs_ups), len(_BLOCKS))
    attentions = [*(f"attn1_{part}" for part in _ATTENTION), *(f"attn2_{part}" for part in _ATTENTION)]
    if rest or n_modules not in (len(attentions), len(attentions) + 1):
        return None
    if n_modules > len(attentions):
        widths = [(down[-1], up[0]) for down, up in downs_ups[:n_modules]]
        feed_forward = next((n for n, (columns, rows) in enumerate(widths) if rows == 8 * columns), None)
        if feed_forward not in (4, 8):
            return None
        attentions.insert(feed_forward, _FEED_FORWARD)
    return [f"lora_unet_{block}_transformer_blocks_0_{module}" for block in _BLOCKS for module in attentions]


def _text_encoder_names(n_modules: int) -> list[str] | None:
    n_layers, rest = divmod(n_modules, len(_TEXT_ATTENTION))
    names = [
        f"lora_te_text_model_encoder_layers_{n}_self_attn_{part}" for n in range(n_layers) for part in _TEXT_ATTENTION
    ]
    return None if rest else names
