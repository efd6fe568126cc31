"""What a step needs, ready before it asks: latents of the pictures and embeddings of the prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from dreambooth.checkpoints.text import encode, tokenize
from dreambooth.dataset.cache import LatentCache, TextCache
from dreambooth.dataset.pixels import load_pixels
from dreambooth.dataset.plan import Example

Progress = Callable[[int, int, str], None]


class Latents:
    """The VAE's posterior (mean and deviation) of each picture, encoded once and kept by content.

    A batch draws from the posterior anew each time, so nothing of the VAE's own noise is frozen in.
    """

    def __init__(self, cache: LatentCache, scaling_factor: float, device: torch.device) -> None:
        self.cache, self.scaling_factor, self.device = cache, scaling_factor, device
        self._moments: dict[Example, torch.Tensor] = {}

    def prepare(self, examples: Sequence[Example], load_vae: Callable[[], Any], progress: Progress) -> None:
        """Fetch all from the cache; encode what is not there yet. The VAE is loaded only if it is needed."""
        missing = []
        for example in examples:
            moments = self.cache.get(example)
            if moments is None:
                missing.append(example)
            else:
                self._moments[example] = moments.to(self.device)
        if not missing:
            return
        vae = load_vae().to(self.device)
        for done, example in enumerate(missing):
            progress(done, len(missing), "latents")
            self._moments[example] = self._encode(vae, example)
            self.cache.put(example, self._moments[example].cpu())
        progress(len(missing), len(missing), "latents")

    def batch(self, examples: Sequence[Example], generator: torch.Generator) -> torch.Tensor:
        """Scaled latents, (B, 4, h, w) float32."""
        mean, std = torch.stack([self._moments[example] for example in examples]).chunk(2, dim=1)
        noise = torch.randn(mean.shape, generator=generator).to(self.device)
        return torch.addcmul(mean, std, noise) * self.scaling_factor

    @torch.no_grad()
    def _encode(self, vae: Any, example: Example) -> torch.Tensor:
        """(8, h, w) float32: mean and standard deviation. One by one: batches are slower on a CPU."""
        posterior = vae.encode(load_pixels(example)[None].to(self.device, vae.dtype)).latent_dist
        moments = torch.cat([posterior.mean, posterior.std], dim=1)[0].float()
        if not torch.isfinite(moments).all():
            raise FloatingPointError(f"The VAE gives no finite latents for {example.path}")
        return moments


class Prompts:
    """Embeddings of the prompts: looked up while the text encoder is frozen, computed while it learns."""

    def __init__(self, tokenizer: Any, text_encoder: Any, clip_skip: int, device: torch.device) -> None:
        self.tokenizer, self.text_encoder = tokenizer, text_encoder
        self.clip_skip, self.device = clip_skip, device
        self._ids: dict[str, torch.Tensor] = {}
        self._embeddings: dict[str, torch.Tensor] = {}

    @property
    def learning(self) -> bool:
        """Whether embeddings are computed with gradients now."""
        return bool(self._ids)

    def learn(self, prompts: Sequence[str]) -> None:
        """The text encoder is going to be trained: keep token ids."""
        ids = tokenize(self.tokenizer, prompts).to(self.device)
        self._ids = dict(zip(prompts, ids, strict=True))

    @torch.no_grad()
    def freeze(self, prompts: Sequence[str], cache: TextCache | None, load: Callable[[], tuple[Any, Any]]) -> None:
        """Embed all prompts once; tokenizer and text encoder are loaded only for those that the cache lacks."""
        self._ids = {}
        for prompt in prompts:
            known = cache.get(prompt) if cache else None
            if known is None:
                self.tokenizer, self.text_encoder = load()
                ids = tokenize(self.tokenizer, [prompt]).to(self.device)
                known = encode(self.text_encoder, ids, self.clip_skip)[0].float().cpu()
                if cache:
                    cache.put(prompt, known)
            self._embeddings[prompt] = known.to(self.device)

    def batch(self, prompts: Sequence[str]) -> torch.Tensor:
        """(B, 77, D); with a graph behind it while the text encoder learns."""
        if self.learning:
            return encode(self.text_encoder, torch.stack([self._ids[p] for p in prompts]), self.clip_skip)
        return torch.stack([self._embeddings[p] for p in prompts])
