"""Evaluation of the shipped model with the classifier: how well images follow their prompts."""

import json

import numpy as np
import torch
from PIL import Image

from dreambooth.embedded.checker import Checker

from .render import (
    COLORS,
    POSITIONS,
    another_color,
    pick,
    triple_caption,
    triples,
    with_article,
)
from .shapes import PIXELS

SEED = 424242


def evaluate(generate, checker_file, folder, guidance=4.0):
    """Print the rates as one JSON object, and write contact sheets to `folder`.

    `generate`: a Generator or FlowGenerator.
    """
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    checker = Checker.load(checker_file)
    sheets = {}
    report = {
        **measure_triples(generate, checker, guidance, sheets),
        **measure_toys(generate, checker, guidance, sheets),
        **measure_positions(generate, guidance, sheets),
        **measure_sizes(generate, guidance, sheets),
    }
    for name, images in sheets.items():
        contact_sheet(images, 13).save(folder / f"sheet_{name}.png")
    print(json.dumps(report, indent=2), flush=True)
    return report


def measure_triples(generate, checker, guidance, sheets):
    """Rate of images with correct shape, color and background: held-out triples twice each, and as many of training."""
    rng = np.random.default_rng(SEED)
    training = triples(held_out=False)
    sets = {"held_out": triples(held_out=True) * 2, "training": [pick(rng, training) for _ in range(78)]}
    report = {}
    for number, (name, wanted) in enumerate(sets.items()):
        images = sheets[name] = generate([triple_caption(*t) for t in wanted], SEED + number, guidance=guidance)
        predictions = checker.classify(images)
        report[name] = fraction(checker.matches_prompts(images, wanted))
        report[f"{name}_shape"] = fraction(r.kind == t[0] for r, t in zip(predictions, wanted, strict=True))
        report[f"{name}_color"] = fraction(r.color == t[1] for r, t in zip(predictions, wanted, strict=True))
        report[f"{name}_background"] = fraction(r.background == t[2] for r, t in zip(predictions, wanted, strict=True))
    return report


def measure_toys(generate, checker, guidance, sheets):
    """Rate of images classified as toys: for "a toy" alone, and with pattern and colors."""
    rng = np.random.default_rng(SEED)
    named = []
    for _ in range(39):
        color, second = rng.choice(COLORS, 2, replace=False).tolist()
        pattern = pick(rng, ["striped", "dotted", "vertical", "half", "diagonal"])
        background = another_color(rng, color, second)
        name = with_article(f"{pattern} {color} and {second} toy")
        named.append(f"{name} on {with_article(background)} background")
    report = {}
    for number, (name, prompts) in enumerate({"toy": ["a toy"] * 52, "toy_described": named}.items()):
        images = sheets[name] = generate(prompts, SEED + 10 + number, guidance=guidance)
        report[name] = fraction(attributes.kind == "toy" for attributes in checker.classify(images))
    return report


def measure_positions(generate, guidance, sheets):
    """Rate of shapes on the requested side, at least a twentieth of the image off center."""
    report, training = {}, triples(held_out=False)
    for number, (position, (across, down)) in enumerate(POSITIONS.items()):
        rng = np.random.default_rng(SEED + number)
        prompts = [f"{triple_caption(*pick(rng, training))} at the {position}" for _ in range(26)]
        images = generate(prompts, SEED + 20 + number, guidance=guidance)
        sheets["positions"] = sheets.get("positions", []) + images[:13]
        places = [foreground(image) for image in images]
        report[f"position_{position}"] = fraction(across * (x - 0.5) + down * (y - 0.5) > 0.05 for _, x, y in places)
    return report


def measure_sizes(generate, guidance, sheets):
    """Mean area fraction of shapes by size, and how often small < usual < big for the same noise."""
    rng = np.random.default_rng(SEED)
    wanted = [pick(rng, triples(held_out=False)) for _ in range(26)]
    areas = {}
    for size in ("small ", "", "big "):
        prompts = [
            f"{with_article(f'{size}{color} {noun}')} on {with_article(background)} background"
            for noun, color, background in wanted
        ]
        images = generate(prompts, SEED + 30, guidance=guidance)
        sheets["sizes"] = sheets.get("sizes", []) + images[:13]
        areas[size.strip() or "usual"] = np.array([foreground(image)[0] for image in images])
    ordered = (areas["small"] < areas["usual"]) & (areas["usual"] < areas["big"])
    return {f"area_{size}": round(float(values.mean()), 3) for size, values in areas.items()} | {
        "sizes_ordered": fraction(ordered)
    }


def foreground(image):
    """(area, x, y) of the foreground, as fractions of the image. Background: the median of the border."""
    values = image.astype(float)
    border = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
    inside = np.abs(values - np.median(border, 0)).sum(-1) > 110
    if not inside.any():
        return 0.0, 0.5, 0.5
    y, x = np.nonzero(inside)
    height, width = inside.shape
    return float(inside.mean()), float((x.mean() + 0.5) / width), float((y.mean() + 0.5) / height)


def fraction(outcomes):
    """Fraction of true outcomes."""
    return round(float(np.mean([bool(outcome) for outcome in outcomes])), 3)


def contact_sheet(images, columns, gap=2):
    """All images in one PIL image, row by row."""
    cell, rows = PIXELS + gap, -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * cell, rows * cell), (90, 90, 90))
    for index, image in enumerate(images):
        sheet.paste(Image.fromarray(np.asarray(image)), (index % columns * cell, index // columns * cell))
    return sheet
