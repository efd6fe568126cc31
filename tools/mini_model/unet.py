"""Trains UNet and text encoder together on the latents of the captioned pictures."""

import math
import time

import torch

from . import parallel
from .narrow_attention import NarrowHeadAttention
from .networks import CaptionWords, new_text_encoder, new_unet, noise_schedule
from .pictures import load_captions, load_names, load_pictures, write
from .render import NOUNS
from .vae import encode, new_vae
from .words import CONTEXT, END, START, load_tokenizer, tokens_of

EMPTY_SHARE = 0.1  # captions replaced by "", for classifier-free guidance
UNKNOWN_WORD_SHARE = 0.05  # captions with a word that means nothing, never before "toy": there it is a name
HIGHEST_WEIGHT = 10.0


def encode_pictures(folder):
    """Writes this worker's half of the latents ([n, 4, 16, 16], float32, deviation 1)."""
    torch.set_num_threads(1)
    vae = new_vae().eval()
    vae.load_state_dict(torch.load(folder / "vae.pt"))
    pictures, _ = load_pictures(folder)
    share = slice(
        len(pictures) * parallel.RANK // parallel.WORLD_SIZE,
        len(pictures) * (parallel.RANK + 1) // parallel.WORLD_SIZE,
    )
    with torch.autocast("cpu", torch.bfloat16):
        latents = encode(vae, pictures[share])
    torch.save(latents, folder / f"latents_{parallel.RANK}.pt")


def load_latents(folder):
    """All workers' latents, in the order of the pictures."""
    parts = sorted(folder.glob("latents_*.pt"))
    return torch.cat([torch.load(part) for part in parts])


def loss_weights(alphas_cumprod):
    """Weight of each timestep's squared error.

    min-SNR-5 where there is little noise; up to 10 where there is much, because there the prompt's colours
    and shape are decided, and few channels would rather spend themselves on edges.
    """
    snr = alphas_cumprod / (1 - alphas_cumprod)
    return torch.where(snr > 5, 5 / snr, (1 + 1 / snr).clamp(max=HIGHEST_WEIGHT))


class Captions:
    """Token ids of the captions, with the words that training mixes in or takes away."""

    def __init__(self, tokenizer, captions, names):
        self.ids = tokens_of(tokenizer, captions)  # [pictures, 77]
        self.empty = tokens_of(tokenizer, [""])[0]
        # The names' rows stay as random as those of names to come: what holds for these holds for those.
        in_names = tokens_of(tokenizer, [" ".join(names[i : i + 30]) for i in range(0, len(names), 30)])
        in_names = in_names[(in_names != START) & (in_names != END)]
        known = self.ids.unique()
        self.known = known[~torch.isin(known, in_names)]
        self.nouns = {int(tokens_of(tokenizer, [noun])[0, 1]) for noun in NOUNS}
        words = [
            index
            for token, index in tokenizer.get_vocab().items()
            if token.endswith("</w>") and token[:-4].isascii() and token[:-4].isalpha()
        ]
        self.unknown = torch.tensor(sorted(set(words) - set(self.known.tolist()) - set(in_names.tolist())))

    def draw(self, indices):
        """Token ids of these pictures' captions, some emptied and some with an unknown word, [n, 77]."""
        ids = self.ids[indices].clone()
        for row, chance in enumerate(torch.rand(len(ids)).tolist()):
            if chance < EMPTY_SHARE:
                ids[row] = self.empty
            elif chance < EMPTY_SHARE + UNKNOWN_WORD_SHARE:
                ids[row] = self._with_unknown_word(ids[row])
        return ids

    def _with_unknown_word(self, row):
        ids = row.tolist()
        nouns = [position for position, token in enumerate(ids) if token in self.nouns]
        if nouns:
            ids.insert(nouns[0], int(self.unknown[torch.randint(len(self.unknown), ())]))
        return torch.tensor(ids[:CONTEXT])


class Training:
    """Everything one worker trains, and how it is kept on disk."""

    def __init__(self, folder, batch, learning_rate, start=None):
        self.folder, self.batch, self.learning_rate = folder, batch, learning_rate
        torch.manual_seed(0)
        self.latents = load_latents(folder)
        self.captions = Captions(load_tokenizer(folder / "tokenizer"), load_captions(folder), load_names(folder))
        self.text_encoder, self.unet = new_text_encoder(), new_unet()
        if start:
            load_model(torch.load(start), self.unet, self.text_encoder)
        self.words = CaptionWords(self.text_encoder.get_input_embeddings(), self.captions.known)
        self.text_encoder.set_input_embeddings(self.words)
        self.unet.set_attn_processor(NarrowHeadAttention())  # pyright: ignore[reportArgumentType] (diffusers lists its own)
        self.schedule = noise_schedule()
        self.weights = loss_weights(self.schedule.alphas_cumprod)
        self.parameters: list[torch.Tensor] = [
            parameter
            for module in (self.unet, self.text_encoder)
            for parameter in module.parameters()
            if parameter.requires_grad
        ]
        parallel.same_start(self.parameters)
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True
        )
        self.average = parallel.MovingAverage(self.parameters, 0.999)
        self.progress, self.step_count = 0.0, 0

    def step(self):
        """One forward and backward pass; returns the mean squared error of the noise."""
        chosen = torch.randint(len(self.latents), (self.batch,))
        clean, ids = self.latents[chosen], self.captions.draw(chosen)
        # One timestep from each of `batch` equal ranges: less chance in the loss than independent draws.
        timesteps = ((torch.arange(self.batch) + torch.rand(self.batch)) * (1000 / self.batch)).long()
        noise = torch.randn_like(clean)
        noisy = self.schedule.add_noise(clean, noise, timesteps)  # pyright: ignore[reportArgumentType] (any integers)
        with torch.autocast("cpu", torch.bfloat16):
            predicted = self.unet(noisy, timesteps, self.text_encoder(ids)[0]).sample
        error = (predicted.float() - noise).square().mean((1, 2, 3))
        self.optimizer.zero_grad(set_to_none=True)
        (self.weights[timesteps] * error).mean().backward()
        return error.mean().item()

    def update(self, progress):
        """Averages the workers' gradients and moves the weights; `progress` 0..1 sets the learning rate."""
        warm_up = min(1, (self.step_count + 1) / 100)
        rate = self.learning_rate * warm_up * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * self.progress)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.progress = parallel.average_gradients(self.parameters, progress)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.average.update()
        self.step_count += 1

    def save(self, elapsed):
        """Writes the state to resume from, and the averaged weights as the model (whole or not at all)."""
        write(
            self.folder / "training.pt",
            {
                "parameters": [parameter.detach() for parameter in self.parameters],
                "average": self.average.values,
                "average_steps": self.average.steps,
                "optimizer": self.optimizer.state_dict(),
                "elapsed": elapsed,
                "steps": self.step_count,
                "table": self.words.table,
            },
        )
        self.average.swap()
        text_state = {
            key: value for key, value in self.text_encoder.state_dict().items() if "token_embedding" not in key
        }
        write(
            self.folder / "model.pt",
            {
                "unet": self.unet.state_dict(),
                "text_encoder": text_state,
                "token_embedding": self.words.full_table(),
                "steps": self.step_count,
            },
        )
        self.average.swap()

    @torch.no_grad()
    def resume(self):
        """Continues from the last saved state; returns the seconds trained so far."""
        path = self.folder / "training.pt"
        if not path.exists():
            return 0.0
        state = torch.load(path)
        torch._foreach_copy_(self.parameters, state["parameters"])
        torch._foreach_copy_(self.average.values, state["average"])
        self.words.table.copy_(state["table"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.steps, self.step_count = state["average_steps"], state["steps"]
        return state["elapsed"]


def load_model(model, unet, text_encoder):
    """Puts a saved model.pt into the networks."""
    unet.load_state_dict(model["unet"])
    text_encoder.load_state_dict(model["text_encoder"], strict=False)  # all but the token table
    with torch.no_grad():
        text_encoder.get_input_embeddings().weight.copy_(model["token_embedding"])


def train_unet(folder, seconds, start=None, batch=16, learning_rate=1.5e-3, save_every=180):
    """Trains for `seconds` of wall time, all earlier calls on this folder included. One worker of several.

    `start`: the model.pt of an earlier training to begin with.
    """
    parallel.join()
    training = Training(folder, batch, learning_rate, start)
    before = training.resume()
    training.progress = before / seconds
    torch.manual_seed(1 + parallel.RANK + 2 * training.step_count)
    began, saved, error = time.time(), time.time(), None
    while training.progress < 1:
        new_error = training.step()
        elapsed = before + time.time() - began
        training.update(elapsed / seconds)
        error = new_error if error is None else 0.99 * error + 0.01 * new_error
        if parallel.RANK == 0 and training.step_count % 50 == 0:
            print(
                f"unet step {training.step_count}, {elapsed:.0f} s, cpu {time.process_time():.0f} s, error {error:.4f}",
                flush=True,
            )
        if parallel.RANK == 0 and (time.time() - saved > save_every or training.progress >= 1):
            training.save(elapsed)
            saved = time.time()
