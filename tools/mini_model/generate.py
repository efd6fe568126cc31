"""The shipped single file as three diffusers / transformers models, and pictures from it."""

import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file

from .convert import original_text_encoder, original_unet, original_vae
from .narrow_attention import NarrowHeadAttention
from .networks import NOISE, SAMPLE_SIZE, new_text_encoder, new_unet
from .vae import decode, new_vae
from .words import load_tokenizer, tokens_of


class Generator:
    """Draws pictures: DDIM with classifier-free guidance, float32, as Stable Diffusion 1.x is sampled."""

    def __init__(self, path, tokenizer_folder):
        tensors = load_file(path)
        self.tokenizer = load_tokenizer(tokenizer_folder)
        self.unet = _filled(new_unet(), original_unet, tensors)
        self.vae = _filled(new_vae(), original_vae, tensors)
        self.text_encoder = _filled(new_text_encoder(), original_text_encoder, tensors)
        self.unet.set_attn_processor(NarrowHeadAttention())  # pyright: ignore[reportArgumentType] (diffusers lists its own)

    @torch.no_grad()
    def __call__(self, prompts, seed, steps=20, guidance=4.0, batch=24):
        """uint8 pictures [128, 128, 3] of the prompts; the noise depends on `seed` alone."""
        pictures = []
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(len(prompts), 4, SAMPLE_SIZE, SAMPLE_SIZE, generator=generator)
        for start in range(0, len(prompts), batch):
            part = prompts[start : start + batch]
            context = self.text_encoder(tokens_of(self.tokenizer, [""] * len(part) + part))[0]
            schedule = DDIMScheduler(**NOISE, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
            schedule.set_timesteps(steps)
            latents = noise[start : start + batch]
            for timestep in schedule.timesteps:
                unguided, guided = self.unet(torch.cat([latents, latents]), timestep, context).sample.chunk(2)
                predicted = unguided + guidance * (guided - unguided)
                latents = schedule.step(predicted, int(timestep), latents, return_dict=False)[0]
            pictures += list(decode(self.vae, latents))
        return pictures


def _filled(model, original_names, tensors):
    """`model` with the weights that the single file holds for it.

    The names are found by sending each tensor's own name through the conversion.
    """
    state = {}
    for key, tensor in model.state_dict().items():
        original = next(iter(original_names({key: tensor})))
        state[key] = tensors[original].reshape(tensor.shape).float()
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)
