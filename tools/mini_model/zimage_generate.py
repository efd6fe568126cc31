"""Image generation with the shipped single file of the flow model, loaded into diffusers and transformers models."""

import itertools

import torch
from safetensors.torch import load_file

from dreambooth.models.qwen.tokenizer import PAD_ID

from .qwen_tokenizer import tokens_of
from .vae import FLUX_VAE, decode, new_vae
from .zimage_convert import module_states
from .zimage_networks import LATENT_CHANNELS, LATENT_SIZE, FastForward, new_text_encoder, new_transformer

SHIFT = 3.0  # of the sampled timesteps to high noise, as WebUIs have it for Z-Image


class FlowGenerator:
    """Generates images: Euler's method with classifier-free guidance, float32, as for Z-Image."""

    def __init__(self, path):
        modules = new_transformer(), new_text_encoder(), new_vae(FLUX_VAE)
        for module, state in zip(modules, module_states(load_file(path)), strict=True):
            module.load_state_dict(state)
            module.eval().requires_grad_(False)
        transformer, self.text_encoder, self.vae = modules
        self.forward = FastForward(transformer)

    @torch.no_grad()
    def __call__(self, prompts, seed, steps=20, guidance=4.0, batch=24):
        """uint8 images [128, 128, 3] of the prompts. The noise depends only on `seed`."""
        images = []
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(len(prompts), LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE, generator=generator)
        sigmas = torch.linspace(1, 0, steps + 1)
        sigmas = SHIFT * sigmas / (1 + (SHIFT - 1) * sigmas)
        for start in range(0, len(prompts), batch):
            part = prompts[start : start + batch]
            ids = tokens_of([""] * len(part) + part)
            lengths = (ids != PAD_ID).sum(1)
            states = self.text_encoder(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states[-2]
            latents = noise[start : start + batch]
            for sigma, following in itertools.pairwise(sigmas):
                time = (1 - sigma).expand(2 * len(part))
                unguided, guided = self.forward(torch.cat([latents, latents]), time, states, lengths).chunk(2)
                latents = latents + (sigma - following) * (unguided + guidance * (guided - unguided))
            images += list(decode(self.vae, latents))
        return images
