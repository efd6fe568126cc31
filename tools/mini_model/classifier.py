"""Training of the classifier (dreambooth/embedded/checker.py) on rendered images, and its subject threshold.

It is trained on rendered images and on their reconstructions by the VAE, never on images of the UNet.
"""

import json
import os
import time
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from dreambooth.embedded.checker import Checker, Network, as_tensor

from .images import write
from .render import (
    BODIES,
    KINDS,
    PATTERNS,
    palette_toy,
    pick,
    random_color,
    random_sample,
    random_subject,
    render_subject,
)
from .shapes import COLORS
from .vae import decode, encode, new_vae

TEMPERATURE = 0.1
TRAINING_SUBJECTS, NEW_SUBJECTS = 30_000_000, 10_000_000  # first seeds, for training and for evaluation


@dataclass(frozen=True)
class Pool:
    """Images [n, 3, 64, 64] in -1..1, labels [n, 3] and subject numbers [n]; -1 for none."""

    images: torch.Tensor
    labels: torch.Tensor
    subjects: torch.Tensor


def sibling(subject, rng):
    """A different subject that differs only in body, pattern or one of the two colors."""
    change = pick(rng, ["body", "pattern", "first", "second"])
    if change == "body":
        return replace(subject, body=pick(rng, [body for body in BODIES if body != subject.body]))
    if change == "pattern":
        others = [pattern for pattern in PATTERNS[1:] if pattern != subject.pattern]
        return replace(subject, pattern=pick(rng, others))
    return replace(subject, **{change: random_color(rng, subject.first, subject.second, distance=130)})


def any_toy(rng):
    """A toy in palette colors or in any colors."""
    if rng.random() < 0.5:
        return random_subject(rng.integers(2**31))
    color, second, background = rng.choice(COLORS, 3, replace=False).tolist()
    return palette_toy(rng, color, second, background, pick(rng, PATTERNS))


def render_pool(vae, subjects, views, samples, through_vae=0.2):
    """Images of subjects (every second one a sibling of the one before) and captioned images; some after the VAE."""
    rng = np.random.default_rng(7)
    images, labels, numbers, subject = [], [], [], None
    for number in range(subjects):
        subject = random_subject(TRAINING_SUBJECTS + number) if number % 2 == 0 else sibling(subject, rng)
        for _ in range(views):
            background = pick(rng, COLORS) if rng.random() < 0.5 else None
            images.append(render_subject(subject, rng, background))
            labels.append((KINDS.index("toy"), -1, COLORS.index(background) if background else -1))
            numbers.append(number)
    for _ in range(samples):
        sample = random_sample(rng)
        images.append(sample.image)
        labels.append((sample.kind, sample.color, sample.background))
        numbers.append(-1)
    chosen = rng.permutation(len(images))[: int(through_vae * len(images))]
    for start in range(0, len(chosen), 64):
        part = chosen[start : start + 64]
        for index, image in zip(part, vae_round_trip(vae, [images[i] for i in part]), strict=True):
            images[index] = image
    return Pool(as_tensor(images), torch.tensor(labels), torch.tensor(numbers))


@torch.no_grad()
def vae_round_trip(vae, images):
    """Reconstructions by the VAE."""
    with torch.autocast("cpu", torch.bfloat16):
        return decode(vae, encode(vae, images))


def augmented(images):
    """Augmentation: slight warping, blur, noise and color shift; [n, 3, height, width] in -1..1."""
    count = len(images)
    # A smooth random displacement: outlines in generated images are not exact.
    bend = torch.randn(count, 2, 5, 5) * torch.rand(count, 1, 1, 1) * 0.035
    bend = F.interpolate(bend, size=images.shape[-2:], mode="bicubic").permute(0, 2, 3, 1)
    grid = F.affine_grid(torch.eye(2, 3).expand(count, 2, 3), images.shape, align_corners=False)
    inputs = F.grid_sample(images, grid + bend, mode="bilinear", padding_mode="border", align_corners=False)
    if torch.rand(()) < 0.4:
        inputs = F.avg_pool2d(F.pad(inputs, (1, 1, 1, 1), mode="replicate"), 3, 1)
    inputs = inputs + torch.randn_like(inputs) * 0.06 * torch.rand(count, 1, 1, 1)
    inputs = inputs * (1 + 0.06 * torch.randn(count, 1, 1, 1)) + 0.04 * torch.randn(count, 3, 1, 1)
    return inputs.clamp(-1, 1)


def same_subject_loss(embeddings, subjects):
    """Supervised contrastive loss: the nearest neighbors of an image should be those of its subject.

    Images without a subject (-1) are only negatives.
    """
    logits = embeddings @ embeddings.T / TEMPERATURE
    itself = torch.eye(len(logits), dtype=torch.bool)
    log_probability = F.log_softmax(logits.masked_fill(itself, -1e9), dim=1)
    match = (subjects[:, None] == subjects[None]) & (subjects[:, None] >= 0) & ~itself
    counts = match.sum(1)
    loss = -(log_probability * match).sum(1)[counts > 0] / counts[counts > 0]
    return loss.mean()


def sample_batch(pool, views, pairs=7, per_subject=3, others=22):
    """Indices of a batch: some subjects with their siblings, a few views of each, and images without a subject."""
    subjects = int(pool.subjects.max()) + 1
    first = torch.randint(subjects // 2, (pairs,)) * 2
    members = torch.cat([first, first + 1])
    picked = torch.stack([torch.randperm(views)[:per_subject] for _ in members])
    of_subjects = (members[:, None] * views + picked).flatten()
    without = torch.randint(subjects * views, len(pool.subjects), (others,))
    return torch.cat([of_subjects, without])


def train_checker(folder, path, steps, subjects=1600, views=5, samples=7000, learning_rate=2e-3):
    """Train, calibrate, write `path` and print the accuracy on new images."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    vae = new_vae().eval()
    vae.load_state_dict(torch.load(folder / "vae.pt"))
    pool_file = folder / "checker_pool.pt"
    if not pool_file.exists():
        write(pool_file, asdict(render_pool(vae, subjects, views, samples)))
    pool = Pool(**torch.load(pool_file))
    network, start = Network(), time.time()
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.05)
    for step in range(1, steps + 1):
        chosen = sample_batch(pool, views)
        *logits, embeddings = network(augmented(pool.images[chosen]))
        loss = same_subject_loss(embeddings, pool.subjects[chosen])
        for values, labels in zip(logits, pool.labels[chosen].T, strict=True):
            loss = loss + F.cross_entropy(values, labels, ignore_index=-1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"checker step {step}, {time.time() - start:.0f} s, loss {loss.item():.3f}", flush=True)
    checker = Checker(network, 0.0)
    checker.threshold = calibrate(checker, vae)
    save_checker(checker, path)
    print(json.dumps(checker_report(Checker.load(path), vae), indent=2), flush=True)


def subject_similarities(checker, vae, count, offset):
    """Similarity to six reference images: of the same new subject, other toys, siblings; all VAE reconstructions."""
    result = {"own": [], "others": [], "siblings": []}
    for number in range(count):
        rng = np.random.default_rng([NEW_SUBJECTS, offset + number])
        subject = random_subject(NEW_SUBJECTS + offset + number)
        references = [render_subject(subject, rng, pick(rng, COLORS)) for _ in range(6)]
        shown = {
            "own": [subject] * 3,
            "others": [any_toy(rng) for _ in range(8)],
            "siblings": [sibling(subject, rng) for _ in range(3)],
        }
        for name, toys in shown.items():
            images = vae_round_trip(vae, [render_subject(toy, rng, pick(rng, COLORS)) for toy in toys])
            result[name] += checker.similarity(images, references)
    return {name: np.array(values) for name, values in result.items()}


def calibrate(checker, vae, count=150):
    """The threshold that 1 % of other toys pass.

    Rendered images of the subject are far above it even after the VAE; generated ones are less exact.
    """
    return float(np.quantile(subject_similarities(checker, vae, count, offset=0)["others"], 0.99))


def checker_report(checker, vae, count=150):
    """Accuracy on images used neither for training nor for calibration."""
    similarity = subject_similarities(checker, vae, count, offset=count)
    report = {
        f"accepted: {name}": round(float((values >= checker.threshold).mean()), 3)
        for name, values in similarity.items()
    }
    rng = np.random.default_rng(99)
    samples = [random_sample(rng) for _ in range(600)]
    for title, images in (
        ("rendered", [sample.image for sample in samples]),
        ("VAE", list(vae_round_trip(vae, [sample.image for sample in samples]))),
    ):
        predictions = checker.classify(images)
        named = [(r, s) for r, s in zip(predictions, samples, strict=True) if s.color >= 0]
        report[f"{title}: kind"] = _fraction(r.kind == KINDS[s.kind] for r, s in zip(predictions, samples, strict=True))
        report[f"{title}: background"] = _fraction(
            r.background == COLORS[s.background] for r, s in zip(predictions, samples, strict=True)
        )
        report[f"{title}: color"] = _fraction(r.color == COLORS[s.color] for r, s in named)
    return report | {"threshold": round(checker.threshold, 3)}


def _fraction(outcomes):
    return round(float(np.mean(list(outcomes))), 3)


def save_checker(checker, path):
    """Write the network as float16, with the threshold in the metadata."""
    tensors = {
        key: tensor.half() if tensor.is_floating_point() else tensor
        for key, tensor in checker.network.state_dict().items()
    }
    temporary = path.with_suffix(".part")
    save_file(tensors, temporary, {"format": "pt", "checker": json.dumps({"threshold": checker.threshold})})
    os.replace(temporary, path)
