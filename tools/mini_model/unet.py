"""Joint training of UNet and text encoder on the latents of the captioned images."""

import math
import time

import torch

from . import parallel
from .clip_tokenizer import CONTEXT, END, START, load_tokenizer, tokens_of
from .images import load_captions, load_images, load_names, write
from .narrow_attention import NarrowHeadAttention
from .networks import CaptionTokenEmbedding, new_text_encoder, new_unet, noise_schedule
from .render import NOUNS
from .vae import encode, new_vae

EMPTY_CAPTION_PROBABILITY = 0.1  # captions replaced by "", for classifier-free guidance
UNKNOWN_WORD_PROBABILITY = 0.05  # captions with an unknown word, but not before "toy", where it would be a name
MAX_WEIGHT = 10.0


def encode_images(folder):
    """Encode and save this worker's part of the latents ([n, 4, 16, 16], float32, standard deviation 1)."""
    torch.set_num_threads(1)
    vae = new_vae().eval()
    vae.load_state_dict(torch.load(folder / "vae.pt"))
    images, _ = load_images(folder)
    own_part = slice(
        len(images) * parallel.RANK // parallel.WORLD_SIZE,
        len(images) * (parallel.RANK + 1) // parallel.WORLD_SIZE,
    )
    with torch.autocast("cpu", torch.bfloat16):
        latents = encode(vae, images[own_part])
    torch.save(latents, folder / f"latents_{parallel.RANK}.pt")


def load_latents(folder):
    """Latents of all workers, in the order of the images."""
    parts = sorted(folder.glob("latents_*.pt"))
    return torch.cat([torch.load(part) for part in parts])


def loss_weights(alphas_cumprod):
    """Loss weight of each timestep.

    min-SNR-5 at low noise; up to 10 at high noise, where colors and shapes are decided: with few channels, the model
    would otherwise learn edges first.
    """
    snr = alphas_cumprod / (1 - alphas_cumprod)
    return torch.where(snr > 5, 5 / snr, (1 + 1 / snr).clamp(max=MAX_WEIGHT))


class Captions:
    """Token ids of the captions, with caption dropout and random unknown words."""

    def __init__(self, tokenizer, captions, names):
        self.ids = tokens_of(tokenizer, captions)  # [images, 77]
        self.empty = tokens_of(tokenizer, [""])[0]
        # The names' rows are not trained, so that new names behave like them.
        name_tokens = tokens_of(tokenizer, [" ".join(names[i : i + 30]) for i in range(0, len(names), 30)])
        name_tokens = name_tokens[(name_tokens != START) & (name_tokens != END)]
        trained_tokens = self.ids.unique()
        self.trained_tokens = trained_tokens[~torch.isin(trained_tokens, name_tokens)]
        self.nouns = {int(tokens_of(tokenizer, [noun])[0, 1]) for noun in NOUNS}
        words = [
            index
            for token, index in tokenizer.get_vocab().items()
            if token.endswith("</w>") and token[:-4].isascii() and token[:-4].isalpha()
        ]
        self.unknown = torch.tensor(sorted(set(words) - set(self.trained_tokens.tolist()) - set(name_tokens.tolist())))

    def sample(self, indices):
        """Token ids of these images' captions, some empty and some with an unknown word, [n, 77]."""
        ids = self.ids[indices].clone()
        for row, chance in enumerate(torch.rand(len(ids)).tolist()):
            if chance < EMPTY_CAPTION_PROBABILITY:
                ids[row] = self.empty
            elif chance < EMPTY_CAPTION_PROBABILITY + UNKNOWN_WORD_PROBABILITY:
                ids[row] = self._with_unknown_word(ids[row])
        return ids

    def _with_unknown_word(self, row):
        ids = row.tolist()
        nouns = [position for position, token in enumerate(ids) if token in self.nouns]
        if nouns:
            ids.insert(nouns[0], int(self.unknown[torch.randint(len(self.unknown), ())]))
        return torch.tensor(ids[:CONTEXT])


class Training:
    """Training state of one worker: networks, optimizer, EMA; saving and resuming."""

    def __init__(self, folder, batch, learning_rate, start=None):
        self.folder, self.batch, self.learning_rate = folder, batch, learning_rate
        torch.manual_seed(0)
        self.latents = load_latents(folder)
        self.captions = Captions(load_tokenizer(folder / "tokenizer"), load_captions(folder), load_names(folder))
        self.text_encoder, self.unet = new_text_encoder(), new_unet()
        if start:
            load_model(torch.load(start), self.unet, self.text_encoder)
        self.words = CaptionTokenEmbedding(self.text_encoder.get_input_embeddings(), self.captions.trained_tokens)
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
        parallel.broadcast_parameters(self.parameters)
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True
        )
        self.average = parallel.MovingAverage(self.parameters, 0.999)
        self.progress, self.step_count = 0.0, 0

    def step(self):
        """One forward and backward pass. Returns the mean squared error of the predicted noise."""
        chosen = torch.randint(len(self.latents), (self.batch,))
        latents, ids = self.latents[chosen], self.captions.sample(chosen)
        # One timestep from each of `batch` equal ranges (stratified): less variance than independent sampling.
        timesteps = ((torch.arange(self.batch) + torch.rand(self.batch)) * (1000 / self.batch)).long()
        noise = torch.randn_like(latents)
        noisy_latents = self.schedule.add_noise(latents, noise, timesteps)  # pyright: ignore[reportArgumentType] (any integers)
        with torch.autocast("cpu", torch.bfloat16):
            model_output = self.unet(noisy_latents, timesteps, self.text_encoder(ids)[0]).sample
        error = (model_output.float() - noise).square().mean((1, 2, 3))
        self.optimizer.zero_grad(set_to_none=True)
        (self.weights[timesteps] * error).mean().backward()
        return error.mean().item()

    def update(self, progress):
        """Average the workers' gradients and take an optimizer step. `progress` 0..1 determines the learning rate."""
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
        """Save the state to resume from, and the EMA weights as the model, each atomically."""
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
        """Continue from the last saved state. Returns the seconds trained so far."""
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
    """Load a saved model.pt into the networks."""
    unet.load_state_dict(model["unet"])
    text_encoder.load_state_dict(model["text_encoder"], strict=False)  # all but the token table
    with torch.no_grad():
        text_encoder.get_input_embeddings().weight.copy_(model["token_embedding"])


def train_unet(folder, seconds, start=None, batch=16, learning_rate=1.5e-3, save_every=180):
    """Train for `seconds` of wall time, including earlier calls on this folder. Runs in each worker.

    `start`: the model.pt of an earlier training to start from.
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
