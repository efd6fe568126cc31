"""How well the shipped model follows prompts, read by the checker."""

import json

import numpy as np
import torch
from PIL import Image

from dreambooth.embedded.checker import Checker

from .generate import Generator
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


def evaluate(model, checker_file, folder, guidance=4.0):
    """Prints one JSON object of rates, and puts sheets of the pictures into `folder`."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    draw = Generator(model, folder / "tokenizer")
    checker = Checker.load(checker_file)
    sheets = {}
    report = {
        **measure_triples(draw, checker, guidance, sheets),
        **measure_toys(draw, checker, guidance, sheets),
        **measure_positions(draw, guidance, sheets),
        **measure_sizes(draw, guidance, sheets),
    }
    for name, pictures in sheets.items():
        contact_sheet(pictures, 13).save(folder / f"sheet_{name}.png")
    print(json.dumps(report, indent=2), flush=True)
    return report


def measure_triples(draw, checker, guidance, sheets):
    """Shape, colour and background all right: held-out triples twice each, and as many seen ones."""
    rng = np.random.default_rng(SEED)
    seen = triples(held_out=False)
    sets = {"held_out": triples(held_out=True) * 2, "seen": [pick(rng, seen) for _ in range(78)]}
    report = {}
    for number, (name, wanted) in enumerate(sets.items()):
        pictures = sheets[name] = draw([triple_caption(*t) for t in wanted], SEED + number, guidance=guidance)
        predictions = checker.classify(pictures)
        report[name] = share(checker.matches_prompts(pictures, wanted))
        report[f"{name}_shape"] = share(r.kind == t[0] for r, t in zip(predictions, wanted, strict=True))
        report[f"{name}_colour"] = share(r.color == t[1] for r, t in zip(predictions, wanted, strict=True))
        report[f"{name}_background"] = share(r.background == t[2] for r, t in zip(predictions, wanted, strict=True))
    return report


def measure_toys(draw, checker, guidance, sheets):
    """Read as a toy: for "a toy" alone, and with pattern and colours named."""
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
        pictures = sheets[name] = draw(prompts, SEED + 10 + number, guidance=guidance)
        report[name] = share(attributes.kind == "toy" for attributes in checker.classify(pictures))
    return report


def measure_positions(draw, guidance, sheets):
    """The shape's middle lies on the asked side, at least a twentieth of the picture off the centre."""
    report, seen = {}, triples(held_out=False)
    for number, (position, (across, down)) in enumerate(POSITIONS.items()):
        rng = np.random.default_rng(SEED + number)
        prompts = [f"{triple_caption(*pick(rng, seen))} at the {position}" for _ in range(26)]
        pictures = draw(prompts, SEED + 20 + number, guidance=guidance)
        sheets["positions"] = sheets.get("positions", []) + pictures[:13]
        places = [foreground(picture) for picture in pictures]
        report[f"position_{position}"] = share(across * (x - 0.5) + down * (y - 0.5) > 0.05 for _, x, y in places)
    return report


def measure_sizes(draw, guidance, sheets):
    """Mean share of the picture that shapes cover, and how often small < usual < big from the same noise."""
    rng = np.random.default_rng(SEED)
    wanted = [pick(rng, triples(held_out=False)) for _ in range(26)]
    areas = {}
    for size in ("small ", "", "big "):
        prompts = [
            f"{with_article(f'{size}{color} {noun}')} on {with_article(background)} background"
            for noun, color, background in wanted
        ]
        pictures = draw(prompts, SEED + 30, guidance=guidance)
        sheets["sizes"] = sheets.get("sizes", []) + pictures[:13]
        areas[size.strip() or "usual"] = np.array([foreground(picture)[0] for picture in pictures])
    ordered = (areas["small"] < areas["usual"]) & (areas["usual"] < areas["big"])
    return {f"area_{size}": round(float(values.mean()), 3) for size, values in areas.items()} | {
        "sizes_ordered": share(ordered)
    }


def foreground(picture):
    """(area, x, y) of what isn't background, as shares of the picture; background = median of the border."""
    values = picture.astype(float)
    border = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
    inside = np.abs(values - np.median(border, 0)).sum(-1) > 110
    if not inside.any():
        return 0.0, 0.5, 0.5
    y, x = np.nonzero(inside)
    height, width = inside.shape
    return float(inside.mean()), float((x.mean() + 0.5) / width), float((y.mean() + 0.5) / height)


def share(answers):
    """Share of true answers."""
    return round(float(np.mean([bool(answer) for answer in answers])), 3)


def contact_sheet(pictures, columns, gap=2):
    """All pictures in one PIL image, row by row."""
    cell, rows = PIXELS + gap, -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * cell, rows * cell), (90, 90, 90))
    for index, picture in enumerate(pictures):
        sheet.paste(Image.fromarray(np.asarray(picture)), (index % columns * cell, index // columns * cell))
    return sheet
