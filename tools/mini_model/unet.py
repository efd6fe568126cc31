"""Joint training of UNet and text encoder on the latents of the captioned images."""

import torch

from . import parallel
from .clip_tokenizer import END, START, load_tokenizer, tokens_of
from .images import load_captions, load_latents, load_names
from .narrow_attention import NarrowHeadAttention
from .networks import CaptionTokenEmbedding, new_text_encoder, new_unet, noise_schedule
from .render import NOUNS
from .training import Captions, Training, run

MAX_WEIGHT = 10.0


def loss_weights(alphas_cumprod):
    """Loss weight of each timestep.

    min-SNR-5 at low noise; up to 10 at high noise, where colors and shapes are decided: with few channels, the model
    would otherwise learn edges first.
    """
    snr = alphas_cumprod / (1 - alphas_cumprod)
    return torch.where(snr > 5, 5 / snr, (1 + 1 / snr).clamp(max=MAX_WEIGHT))


def load_caption_tokens(folder):
    """Captions with CLIP's tokens of the images in `folder`."""
    tokenizer, names = load_tokenizer(folder / "tokenizer"), load_names(folder)
    name_tokens = tokens_of(tokenizer, [" ".join(names[i : i + 30]) for i in range(0, len(names), 30)])
    name_tokens = name_tokens[(name_tokens != START) & (name_tokens != END)]
    nouns = {int(tokens_of(tokenizer, [noun])[0, 1]) for noun in NOUNS}
    words = [
        index
        for token, index in tokenizer.get_vocab().items()
        if token.endswith("</w>") and token[:-4].isascii() and token[:-4].isalpha()
    ]
    empty = tokens_of(tokenizer, [""])[0]
    return Captions(tokens_of(tokenizer, load_captions(folder)), empty, name_tokens, nouns, words)


class UnetTraining(Training):
    """Noise prediction with a UNet. `start`: the model.pt of an earlier training to start from."""

    def __init__(self, folder, batch, learning_rate, start=None):
        torch.manual_seed(0)
        self.batch, self.latents, self.captions = batch, load_latents(folder), load_caption_tokens(folder)
        self.text_encoder, self.unet = new_text_encoder(), new_unet()
        if start:
            load_model(torch.load(start), self.unet, self.text_encoder)
        words = CaptionTokenEmbedding(self.text_encoder.get_input_embeddings(), self.captions.trained_tokens)
        self.text_encoder.set_input_embeddings(words)
        self.unet.set_attn_processor(NarrowHeadAttention())  # pyright: ignore[reportArgumentType] (diffusers lists its own)
        self.schedule = noise_schedule()
        self.weights = loss_weights(self.schedule.alphas_cumprod)
        super().__init__(folder, (self.unet, self.text_encoder), words, learning_rate)

    def step(self):
        chosen = torch.randint(len(self.latents), (self.batch,))
        latents, ids = self.latents[chosen], self.captions.sample(chosen)
        # One timestep from each of `batch` equal ranges (stratified): less variance than independent sampling.
        timesteps = ((torch.arange(self.batch) + torch.rand(self.batch)) * (1000 / self.batch)).long()
        noise = torch.randn_like(latents)
        noisy_latents = self.schedule.add_noise(latents, noise, timesteps)  # pyright: ignore[reportArgumentType] (any integers)
        with torch.autocast("cpu", torch.bfloat16):
            model_output = self.unet(noisy_latents, timesteps, self.text_encoder(ids)[0]).sample
        error = (model_output.float() - noise).square().mean((1, 2, 3))
        self.backward((self.weights[timesteps] * error).mean())
        return error.mean().item()

    def model(self):
        text_state = {
            key: value for key, value in self.text_encoder.state_dict().items() if "token_embedding" not in key
        }
        return {
            "unet": self.unet.state_dict(),
            "text_encoder": text_state,
            "token_embedding": self.words.full_table(),
        }


def load_model(model, unet, text_encoder):
    """Load a saved model.pt into the networks."""
    unet.load_state_dict(model["unet"])
    text_encoder.load_state_dict(model["text_encoder"], strict=False)  # all but the token table
    with torch.no_grad():
        text_encoder.get_input_embeddings().weight.copy_(model["token_embedding"])


def train_unet(folder, seconds, start=None, batch=16, learning_rate=1.5e-3):
    """Train for `seconds` of wall time, including earlier calls on this folder. Runs in each worker.

    `start`: the model.pt of an earlier training to start from.
    """
    parallel.join()
    run(UnetTraining(folder, batch, learning_rate, start), seconds)
