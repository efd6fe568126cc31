"""Latents of the images, encoded ahead of the steps that need them, and their sizes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch

from dreambooth.dataset.cache import LatentCache, store
from dreambooth.dataset.pixels import load_pixels
from dreambooth.dataset.plan import Example
from dreambooth.errors import UserError
from dreambooth.models.conditioning import ImageSize
from dreambooth.models.latents import LatentCodec
from dreambooth.models.transfer import to_device
from dreambooth.types import ProgressCallback

PixelsKey = tuple[object, ...]  # Example.pixels_key


class LatentStore:
    """The VAE's posterior (mean and standard deviation) of each image, encoded once and cached by content.

    They are in main memory: on a GPU those of thousands of images would take gigabytes.
    Each batch samples from the posterior again, so that no single sample of it is trained on.
    """

    def __init__(self, cache: LatentCache, codec: LatentCodec, device: torch.device) -> None:
        self.cache, self.codec, self.device = cache, codec, device
        self._moments: dict[PixelsKey, torch.Tensor] = {}
        self._encoder: BackgroundEncoder | None = None

    def prepare(self, examples: Sequence[Example], load_vae: Callable[[], Any], progress: ProgressCallback) -> None:
        """Read posteriors from the cache and encode missing ones. The VAE is loaded only if some are missing.

        On a GPU all are encoded now, so that the VAE's memory is free before the denoiser is loaded. On a CPU a thread
        encodes them in the order of ``examples``, while the other modules are loaded and the first steps run.
        """
        missing, unique = [], {}
        for example in examples:
            unique.setdefault(example.pixels_key, example)
        for key, example in unique.items():
            moments = self.cache.get(example)
            if moments is None:
                missing.append(example)
            else:
                self._moments[key] = moments
        if not missing:
            return
        vae = load_vae().to(self.device)
        encoder = BackgroundEncoder(missing, lambda example: self._encode(vae, example), progress)
        if self.device.type == "cpu":
            self._encoder = encoder
            encoder.start()
        else:
            encoder.run()
            encoder.raise_error()

    def batch(self, examples: Sequence[Example], generator: torch.Generator) -> torch.Tensor:
        """Normalized latents, (B, C, h, w) float32."""
        if self._encoder:
            self._encoder.wait_for(examples)
        moments = torch.stack([self._moments[example.pixels_key] for example in examples])
        mean, std = to_device(moments, self.device).chunk(2, dim=1)
        noise = to_device(torch.randn(mean.shape, generator=generator), self.device)
        return self.codec.normalize(torch.addcmul(mean, std, noise))

    def close(self) -> None:
        if self._encoder:
            self._encoder.stop()
        self._encoder = None

    @torch.no_grad()
    def _encode(self, vae: Any, example: Example) -> None:
        """(2C, h, w) float32: mean and standard deviation. One image at a time: batches are slower on a CPU."""
        moments = torch.cat(self.codec.moments(vae, load_pixels(example)[None]), dim=1)[0].float()
        if not torch.isfinite(moments).all():
            raise UserError(f"{example.path}: the VAE encodes it to NaN or infinite latents. Remove the image.")
        moments = moments.cpu()
        self._moments[example.pixels_key] = moments
        store(self.cache, example, moments)


class BackgroundEncoder(threading.Thread):
    """Encodes examples one after the other. Callers wait for those that they need."""

    def __init__(
        self, examples: Sequence[Example], encode: Callable[[Example], None], progress: ProgressCallback
    ) -> None:
        super().__init__(name="dreambooth latents", daemon=True)
        self._pending, self._encode, self._progress = list(examples), encode, progress
        self._missing = {example.pixels_key for example in examples}
        self._ready = threading.Condition()
        self._stopped, self._error = False, None

    def run(self) -> None:
        try:
            for done, example in enumerate(self._pending):
                if self._stopped:
                    return
                self._progress(done, len(self._pending), "latents")
                self._encode(example)
                with self._ready:
                    self._missing.discard(example.pixels_key)
                    self._ready.notify_all()
            self._progress(len(self._pending), len(self._pending), "latents")
        except BaseException as error:
            with self._ready:
                self._error = error
                self._ready.notify_all()
        finally:
            del self._encode  # which refers to the VAE

    def wait_for(self, examples: Sequence[Example]) -> None:
        if not self._missing and not self._error:
            return
        keys = [example.pixels_key for example in examples]
        with self._ready:
            self._ready.wait_for(lambda: self._error or self._missing.isdisjoint(keys))
        self.raise_error()

    def raise_error(self) -> None:
        if self._error:
            raise self._error

    def stop(self) -> None:
        """Stop after the image that is being encoded."""
        self._stopped = True
        self.join()


def image_size(example: Example) -> ImageSize:
    """The size of an image before and after cropping; of a flipped one, the crop of the flipped original."""
    crop = example.crop
    left = crop.resized_w - crop.width - crop.left if example.flipped else crop.left
    return ImageSize(example.original_size, (left, crop.top), (crop.width, crop.height))
