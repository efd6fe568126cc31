"""Training of a denoiser together with its text encoder: captions, optimizer, EMA; saving and resuming."""

import math
import time

import torch

from . import parallel
from .images import write

EMPTY_CAPTION_PROBABILITY = 0.1  # captions replaced by "", for classifier-free guidance
MUON_RATE = 2.4  # of Muon's learning rate to AdamW's
UNKNOWN_WORD_PROBABILITY = 0.05  # captions with an unknown word, but not before "toy", where it would be a name


class Captions:
    """Token ids of the captions, with caption dropout and random unknown words.

    ids: [images, context]; empty: those of "", [context]; names: the tokens of the toys' names, whose rows are not
    trained, so that new names behave like them; nouns: the tokens of the shapes; words: tokens that could be a word.
    """

    def __init__(self, ids, empty, names, nouns, words):
        self.ids, self.empty, self.nouns = ids, empty, nouns
        trained_tokens = torch.cat([ids.flatten(), empty]).unique()
        self.trained_tokens = trained_tokens[~torch.isin(trained_tokens, names)]
        self.unknown = torch.tensor(sorted(set(words) - set(self.trained_tokens.tolist()) - set(names.tolist())))

    def sample(self, indices):
        """Token ids of these images' captions, some empty and some with an unknown word, [n, context]."""
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
        return torch.tensor(ids[: len(row)])


class Training:
    """Training state of one worker. Subclasses compute the loss in `step` and return the model in `model`.

    `words`: the CaptionTokenEmbedding, one of `modules`. `matrices`: parameters for Muon; AdamW has the others.
    """

    def __init__(self, folder, modules, words, learning_rate, matrices=()):
        self.folder, self.words = folder, words
        self.parameters: list[torch.Tensor] = [
            parameter for module in modules for parameter in module.parameters() if parameter.requires_grad
        ]
        parallel.broadcast_parameters(self.parameters)
        self.optimizers = optimizers(self.parameters, matrices, learning_rate)
        self.average = parallel.MovingAverage(self.parameters, 0.999)
        self.progress, self.step_count = 0.0, 0

    def step(self) -> float:
        """One forward and backward pass. Returns the mean squared error of the prediction."""
        raise NotImplementedError

    def backward(self, loss) -> None:
        """Compute the gradients of `loss`."""
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()

    def model(self) -> dict:
        """What to save as the model."""
        raise NotImplementedError

    def update(self, progress):
        """Average the workers' gradients and take an optimizer step. `progress` 0..1 determines the learning rate."""
        warm_up = min(1, (self.step_count + 1) / 100)
        share = warm_up * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * self.progress)))
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = share * group["initial_lr"]
        self.progress = parallel.average_gradients(self.parameters, progress)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
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
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "elapsed": elapsed,
                "steps": self.step_count,
                "table": self.words.table,
            },
        )
        self.average.swap()
        write(self.folder / "model.pt", {**self.model(), "steps": self.step_count})
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
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.average.steps, self.step_count = state["average_steps"], state["steps"]
        return state["elapsed"]


def optimizers(parameters, matrices, learning_rate):
    """AdamW, and Muon (Jordan et al., 2024) for `matrices`: transformers of this size need a third fewer steps with it.

    Muon's updates are scaled to the size of AdamW's.
    """
    of_muon = {id(matrix) for matrix in matrices}
    others = [parameter for parameter in parameters if id(parameter) not in of_muon]
    chosen: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    ]
    if of_muon:
        rate = MUON_RATE * learning_rate
        chosen.append(torch.optim.Muon(matrices, rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"))
    for group in (group for optimizer in chosen for group in optimizer.param_groups):
        group["initial_lr"] = group["lr"]
    return chosen


def run(training, seconds, save_every=180):
    """Train for `seconds` of wall time, including earlier calls on the same folder."""
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
                f"step {training.step_count}, {elapsed:.0f} s, cpu {time.process_time():.0f} s, error {error:.4f}",
                flush=True,
            )
        if parallel.RANK == 0 and (time.time() - saved > save_every or training.progress >= 1):
            training.save(elapsed)
            saved = time.time()
