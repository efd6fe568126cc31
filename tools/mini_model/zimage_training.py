"""Joint training of Z-Image's transformer and text encoder on the latents of the captioned images."""

import torch

from dreambooth.models.qwen.tokenizer import PAD_ID

from . import parallel
from .images import load_captions, load_latents, load_names
from .networks import CaptionTokenEmbedding
from .qwen_tokenizer import tokens_of, word_tokens, words_of_one_token
from .render import NOUNS
from .training import Captions, Training, run
from .zimage_networks import FastForward, new_text_encoder, new_transformer

# Of the sampled timesteps: mostly high noise, where shapes are decided. The family's defaults for training are 2 and 1.
SHIFT, SPREAD = 5.0, 1.5


def load_caption_tokens(folder):
    """Captions with the tokens of the images in `folder`."""
    names = torch.tensor(sorted({token for name in load_names(folder) for token in word_tokens(name)}))
    ids = tokens_of(load_captions(folder))
    nouns = {word_tokens(noun)[0] for noun in NOUNS}
    return Captions(ids, tokens_of([""])[0], names, nouns, words_of_one_token())


class FlowTraining(Training):
    """Rectified flow, logit-normal timesteps. `start`: the model.pt of an earlier training to start from."""

    def __init__(self, folder, batch, learning_rate, start=None):
        torch.manual_seed(0)
        self.batch, self.latents, self.captions = batch, load_latents(folder), load_caption_tokens(folder)
        self.text_encoder, self.transformer = new_text_encoder(), new_transformer()
        if start:
            model = torch.load(start)
            self.transformer.load_state_dict(model["transformer"])
            self.text_encoder.load_state_dict(model["text_encoder"])
        words = CaptionTokenEmbedding(self.text_encoder.get_input_embeddings(), self.captions.trained_tokens)
        self.text_encoder.set_input_embeddings(words)
        for unused in (self.text_encoder.layers[-1], self.text_encoder.norm, self.transformer.x_pad_token):
            unused.requires_grad_(False)
        self.forward = FastForward(self.transformer)
        super().__init__(folder, (self.transformer, self.text_encoder), words, learning_rate, matrices=self.matrices())

    def matrices(self):
        """Weights of attention and feed-forward layers."""
        modules = (*self.transformer.named_parameters(), *self.text_encoder.layers[:-1].named_parameters())
        return [
            weight
            for name, weight in modules
            if weight.ndim == 2
            and any(part in name for part in (".attention.", ".self_attn.", ".feed_forward.", ".mlp."))
        ]

    def step(self):
        chosen = torch.randint(len(self.latents), (self.batch,))
        latents, ids = self.latents[chosen], self.captions.sample(chosen)
        noise, sigmas = torch.randn_like(latents), sampled_sigmas(self.batch)
        share = sigmas[:, None, None, None]
        noisy_latents = (1 - share) * latents + share * noise
        states = self.text_encoder(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states[-2]
        with torch.autocast("cpu", torch.bfloat16):
            velocity = self.forward(noisy_latents, 1 - sigmas, states, (ids != PAD_ID).sum(1))
        loss = (velocity - (latents - noise)).square().mean()
        self.backward(loss)
        return loss.item()

    def model(self):
        text_state = {k: v for k, v in self.text_encoder.state_dict().items() if not k.startswith("embed_tokens")}
        embedding = {"embed_tokens.weight": self.words.full_table()}
        return {"transformer": self.transformer.state_dict(), "text_encoder": embedding | text_state}


def sampled_sigmas(count):
    """Noise fractions 0..1 [count], logit-normal and shifted, one from each of `count` equal ranges (stratified)."""
    uniform = (torch.arange(count) + torch.rand(count)) / count
    sigmas = torch.sigmoid(SPREAD * torch.special.ndtri(uniform.clamp(1e-4, 1 - 1e-4)))
    return SHIFT * sigmas / (1 + (SHIFT - 1) * sigmas)


def train_transformer(folder, seconds, start=None, batch=24, learning_rate=2.5e-3):
    """Train for `seconds` of wall time, including earlier calls on this folder. Runs in each worker.

    `start`: the model.pt of an earlier training to start from.
    """
    parallel.join()
    run(FlowTraining(folder, batch, learning_rate, start), seconds)
