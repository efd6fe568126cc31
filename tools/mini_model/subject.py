"""A subject for DreamBooth: six images with captions, and the concepts file that trains it."""

import json

import numpy as np
from PIL import Image

from .render import COLORS, PALETTE, color_distance, render_subject, with_article

IMAGE_COUNT = 6


def fitting_backgrounds(subject, count):
    """The palette colors that contrast most with a subject, best first."""
    own = (subject.first, subject.second, subject.accent)
    distance = {color: min(color_distance(PALETTE[color], other) for other in own) for color in COLORS}
    return sorted(COLORS, key=lambda color: -distance[color])[:count]


def concept(token, class_word):
    """One concept in the keys of the old extension's concepts list."""
    name = f"{token} {class_word}"
    return {
        "instance_data_dir": "subject",
        "class_data_dir": "",
        "instance_prompt": "[filewords]",
        "class_prompt": "[filewords]",
        "instance_token": token,
        "class_token": class_word,
        "save_sample_prompt": with_article(name),
        "save_sample_negative_prompt": "",
        "n_save_sample": 2,
        "sample_seed": 1,
        "save_guidance_scale": 4.0,
        "save_infer_steps": 20,
    }


def write_subject(subject, token, folder, seed=4, class_word="toy"):
    """Writes folder/subject/1.png .. 6.png with captions, and folder/concepts.json."""
    rng = np.random.default_rng(seed)
    images = folder / "subject"
    images.mkdir(parents=True, exist_ok=True)
    for number, background in enumerate(fitting_backgrounds(subject, IMAGE_COUNT), start=1):
        caption = with_article(f"{token} {class_word}")
        # Also without a background, as in prompts; otherwise the name is only learned together with a background.
        caption += "" if number % 3 == 0 else f" on {with_article(background)} background"
        Image.fromarray(render_subject(subject, rng, background)).save(images / f"{number}.png", optimize=True)
        (images / f"{number}.txt").write_text(caption + "\n", encoding="utf-8")
    concepts = json.dumps([concept(token, class_word)], indent=2) + "\n"
    (folder / "concepts.json").write_text(concepts, encoding="utf-8")
