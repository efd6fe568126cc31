"""Image generation with the shipped single file, loaded into diffusers and transformers models."""

import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file

from .clip_tokenizer import load_tokenizer, tokens_of
from .convert import original_text_encoder, original_unet, original_vae
from .narrow_attention import NarrowHeadAttention
from .networks import NOISE, SAMPLE_SIZE, new_text_encoder, new_unet
from .vae import decode, new_vae


class Generator:
    """Generates images: DDIM with classifier-free guidance, float32, as for Stable Diffusion 1.x."""

    def __init__(self, path, tokenizer_folder):
        tensors = load_file(path)
        self.tokenizer = load_tokenizer(tokenizer_folder)
        self.unet = _with_weights(new_unet(), original_unet, tensors)
        self.vae = _with_weights(new_vae(), original_vae, tensors)
        self.text_encoder = _with_weights(new_text_encoder(), original_text_encoder, tensors)
        self.unet.set_attn_processor(NarrowHeadAttention())  # pyright: ignore[reportArgumentType] (diffusers lists its own)

    @torch.no_grad()
    def __call__(self, prompts, seed, steps=20, guidance=4.0, batch=24):
        """uint8 images [128, 128, 3] of the prompts. The noise depends only on `seed`."""
        images = []
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
            images += list(decode(self.vae, latents))
        return images


def _with_weights(model, original_names, tensors):
    """`model` with its weights from the single file, whose names are found by converting the model's own names."""
    state = {}
    for key, tensor in model.state_dict().items():
        original = next(iter(original_names({key: tensor})))
        state[key] = tensors[original].reshape(tensor.shape).float()
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)
