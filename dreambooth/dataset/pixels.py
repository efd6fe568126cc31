"""Examples to the tensors that the VAE encodes."""

from __future__ import annotations

import hashlib

import torch

from dreambooth.dataset.plan import Example
from dreambooth.errors import UserError
from dreambooth.images.cropping import apply_crop
from dreambooth.images.decoding import alpha_channel, decode_to_rgb
from dreambooth.images.file_reader import read_bytes


def load_pixels(example: Example) -> torch.Tensor:
    """The image of :func:`load_rgb` as the VAE takes it: float32 (3, H, W) in [-1, 1]."""
    return scaled(load_rgb(example))


def scaled(rgb: torch.Tensor) -> torch.Tensor:
    """Bytes as float32 in [-1, 1]."""
    return rgb.float() / 127.5 - 1


def load_rgb(example: Example) -> torch.Tensor:
    """The example's image, resized (Lanczos), cropped and mirrored as planned: uint8 (3, H, W).

    UserError if the file has changed since it was planned: its crop and cache entries would belong to another image.
    """
    data = read_bytes(example.path)
    if hashlib.sha256(data).hexdigest() != example.content:
        raise UserError(f"{example.path} changed since it was checked. Restart the training.")
    image = apply_crop(decode_to_rgb(data, example.path), example.crop)
    # Through bytes rather than numpy: older torch builds can't take arrays from numpy 2.
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    pixels = pixels.view(image.height, image.width, 3).permute(2, 0, 1).contiguous()
    return pixels.flip(2) if example.flipped else pixels


def load_mask(example: Example) -> torch.Tensor | None:
    """The example's mask, resized, cropped and mirrored with it: float32 (1, H, W) of 0 and 1; None without one.

    A soft mask has the values of its red channel, from 0 to 1, as in sd-scripts.
    """
    if example.mask is None:
        return None
    mask = decode_to_rgb(read_bytes(example.mask), example.mask).resize(example.original_size)
    mask = apply_crop(mask, example.crop)
    mask = mask.getchannel("R") if example.has_soft_mask else mask.convert("L")
    values = torch.frombuffer(bytearray(mask.tobytes()), dtype=torch.uint8).view(1, mask.height, mask.width)
    values = values.float() / 255 if example.has_soft_mask else (values > 127).float()
    return values.flip(2) if example.flipped else values


def load_alpha(example: Example) -> torch.Tensor | None:
    """The image's alpha channel, cropped and mirrored with it: float32 (1, H, W) in 0..1.

    None for an image without one.
    """
    alpha = alpha_channel(read_bytes(example.path), example.path)
    if alpha is None:
        return None
    alpha = apply_crop(alpha, example.crop)
    values = torch.frombuffer(bytearray(alpha.tobytes()), dtype=torch.uint8).view(1, alpha.height, alpha.width)
    values = values.float() / 255
    return values.flip(2) if example.flipped else values
