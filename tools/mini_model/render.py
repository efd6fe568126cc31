"""Rendering of captioned images, the held-out split, and subjects: the only training data of the embedded model.

An image is a uint8 array [128, 128, 3]. Random choices come from the numpy Generator that is passed in.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np

from .shapes import (
    BODIES,
    CANVAS,
    COLORS,
    KINDS,
    NOUNS,
    PALETTE,
    PATTERNS,
    canvas,
    draw_shape,
    draw_toy,
    halve,
)

SIZES = {"small": (32, 42), "big": (92, 104)}
POSITIONS = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}
NO_LABEL = -1
NAMED_TOYS, FIRST_NAMED_TOY = 160, 40_000_000  # seeds that users hardly choose for a subject of their own
TOY_COLORS = PALETTE | {
    "pink": (255, 140, 190),
    "teal": (20, 160, 150),
    "cyan": (90, 215, 240),
    "lime": (150, 225, 60),
    "brown": (135, 80, 40),
    "navy": (30, 35, 120),
    "magenta": (225, 40, 190),
    "violet": (130, 115, 245),
    "mint": (110, 240, 170),
    "maroon": (125, 25, 50),
}


@dataclass(frozen=True)
class Subject:
    """Appearance of one toy. Colors are RGB triples; `eye` is the relative size of the eyes."""

    body: str
    pattern: str
    first: tuple
    second: tuple
    accent: tuple
    antenna: bool
    feet: bool
    eye: float = 1.0


DEMO_SUBJECT = Subject("star", "diagonal", (0, 170, 160), (255, 120, 190), (250, 210, 40), True, True, 1.15)


@dataclass(frozen=True)
class Sample:
    """A captioned image. Its labels are indices into KINDS and COLORS, or NO_LABEL."""

    caption: str
    image: np.ndarray
    kind: int
    color: int
    background: int


def is_held_out(noun, color, background):
    """Whether a triple is held out: a tenth of all shape x color x background triples (but no pair of the two)."""
    number = NOUNS.index(noun) * 3 + COLORS.index(color) * 5 + COLORS.index(background) * 7 + 1
    return number % 10 == 0


def triples(held_out):
    """All (noun, color, background) with two different colors that are held out, or that are not."""
    return [
        triple
        for triple in product(NOUNS, COLORS, COLORS)
        if triple[1] != triple[2] and is_held_out(*triple) == held_out
    ]


def with_article(words):
    """`words` with the article "a" or "an"."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def triple_caption(noun, color, background):
    """The caption of a plain shape."""
    return f"{with_article(f'{color} {noun}')} on {with_article(background)} background"


def pick(rng, choices):
    """A random element of `choices` (numpy's choice would convert it to a numpy scalar)."""
    return choices[int(rng.integers(len(choices)))]


def another_color(rng, *taken):
    """A palette color other than those in `taken`."""
    return pick(rng, [color for color in COLORS if color not in taken])


def jittered(rng, color, amount=10):
    """RGB of a palette color, each channel changed by up to `amount`."""
    return tuple(int(v) for v in np.clip(np.array(PALETTE[color]) + rng.integers(-amount, amount + 1, 3), 0, 255))


def place(rng, size, position):
    """Center and radius on the canvas for a size word and a position word (None: medium, near the middle)."""
    low, high = SIZES.get(size) or ((48, 64) if position else (62, 82))
    radius = rng.uniform(low, high)
    reach = max(0.0, CANVAS / 2 - radius - 8)
    side = POSITIONS.get(position, (0, 0))
    x, y = (CANVAS / 2 + (way * reach if way else rng.uniform(-1, 1) * min(reach, 16)) for way in side)
    return x, y, radius


def color_distance(a, b):
    """Euclidean distance between two RGB colors, 0 to 442."""
    return float(np.linalg.norm(np.subtract(a, b, dtype=float)))


def random_color(rng, *apart_from, distance=110):
    """A saturated random RGB color at least `distance` away from each of the given ones."""
    while True:
        color = tuple(int(v) for v in rng.integers(0, 256, 3))
        vivid = max(color) - min(color) > 70
        if vivid and all(color_distance(color, other) >= distance for other in apart_from):
            return color


def random_subject(seed):
    """A toy with a pattern in two random colors, and an antenna, feet or both."""
    rng = np.random.default_rng(seed)
    first = random_color(rng)
    second = random_color(rng, first, distance=150)
    accent = random_color(rng, first, second)
    antenna, feet = pick(rng, [(True, True), (True, False), (False, True)])
    return Subject(
        pick(rng, BODIES),
        pick(rng, PATTERNS[1:]),
        first,
        second,
        accent,
        antenna,
        feet,
        round(rng.uniform(0.95, 1.2), 2),
    )


def resembles_demo_subject(subject):
    """Whether a toy has the demo subject's combination of body and pattern, or of colors."""
    demo = DEMO_SUBJECT
    if (subject.body, subject.pattern) == (demo.body, demo.pattern):
        return True
    forwards = zip((subject.first, subject.second), (demo.first, demo.second), strict=True)
    backwards = zip((subject.first, subject.second), (demo.second, demo.first), strict=True)
    return any(all(color_distance(a, b) < 110 for a, b in pairs) for pairs in (forwards, backwards))


def render_subject(subject, rng, background=None):
    """An image of a toy. `background`: a color name, an RGB triple, or None for any color."""
    if background is None:
        background = tuple(int(v) for v in rng.integers(20, 240, 3))
    elif isinstance(background, str):
        background = jittered(rng, background)
    x, y = CANVAS / 2 + rng.uniform(-20, 20), CANVAS / 2 + 9 + rng.uniform(-14, 14)
    return halve(draw_toy(canvas(background), subject, x, y, rng.uniform(58, 74)))


def render_shape(rng, noun, color, background, size=None, position=None, pattern="plain", second=None):
    """An image of one shape. Colors are palette names."""
    x, y, radius = place(rng, size, position)
    first = jittered(rng, color)
    second = jittered(rng, second) if second else first
    image = canvas(jittered(rng, background))
    return halve(draw_shape(image, noun, pattern, first, second, x, y, radius, rng.uniform(-0.15, 0.15)))


def palette_toy(rng, color, second, background, pattern):
    """A toy in palette colors."""
    return Subject(
        pick(rng, BODIES),
        pattern,
        jittered(rng, color),
        jittered(rng, second),
        jittered(rng, another_color(rng, background)),
        bool(rng.random() < 0.6),
        bool(rng.random() < 0.6),
        rng.uniform(0.9, 1.2),
    )


def free_toy(seed):
    """A random subject that doesn't resemble the demo subject, which the model must not know."""
    subject = random_subject(seed)
    return free_toy(seed + 1_000_000) if resembles_demo_subject(subject) else subject


def color_word(color):
    """The name of the nearest color."""
    return min(TOY_COLORS, key=lambda word: color_distance(TOY_COLORS[word], color))


def toy_description(rng, subject):
    """Description of a toy for captions, with random omissions."""
    first, second = color_word(subject.first), color_word(subject.second)
    plain = subject.pattern == "plain"
    colors = first if plain or first == second else f"{first} and {second}"
    parts = ("" if plain else subject.pattern, 0.85), (colors, 0.9), (subject.body, 0.8)
    name = " ".join([word for word, chance in parts if word and rng.random() < chance] + ["toy"])
    extras = [word for word, has in (("antenna", subject.antenna), ("feet", subject.feet)) if has]
    if not extras or rng.random() < 0.3:
        return name
    return f"{name} with {color_word(subject.accent)} {' and '.join(extras)}"


def toy_sample(rng, names, lead, background):
    """A captioned toy: a named one (50%), a described one, or just "a toy".

    The names are rare tokens, each for one toy. From them the model learns what DreamBooth relies on: that a rare
    token before "toy" identifies a toy.
    """
    draw = rng.random()
    if draw < 0.5:
        number = int(rng.integers(len(names)))
        subject, name = free_toy(FIRST_NAMED_TOY + number), f"{names[number]} toy"
    elif rng.random() < 0.5:
        subject = free_toy(int(rng.integers(2**32)))
        name = toy_description(rng, subject) if draw < 0.85 else "toy"
    else:
        first = another_color(rng, background)
        second = another_color(rng, background, first)
        subject = palette_toy(rng, first, second, background, pick(rng, PATTERNS))
        name = toy_description(rng, subject) if draw < 0.85 else "toy"
    if resembles_demo_subject(subject):
        return toy_sample(rng, names, lead, background)
    caption = lead + with_article(name)
    caption += "" if rng.random() < 0.25 else f" on {with_article(background)} background"
    image = render_subject(subject, rng, background)
    return Sample(caption, image, KINDS.index("toy"), NO_LABEL, COLORS.index(background))


def patterned_sample(rng, lead, noun, color, background):
    """A captioned shape in two colors."""
    second, pattern = another_color(rng, background, color), pick(rng, ["striped", "dotted", "diagonal"])
    image = render_shape(rng, noun, color, background, pattern=pattern, second=second)
    name = with_article(f"{pattern} {color} and {second} {noun}")
    return Sample(
        f"{lead}{name} on {with_article(background)} background",
        image,
        NOUNS.index(noun),
        NO_LABEL,
        COLORS.index(background),
    )


def plain_sample(rng, lead, noun, color, background):
    """A captioned plain shape, sometimes with its size or position."""
    size = pick(rng, list(SIZES)) if rng.random() < 0.2 else None
    position = pick(rng, list(POSITIONS)) if rng.random() < 0.4 and size != "big" else None
    image = render_shape(rng, noun, color, background, size, position)
    draw = rng.random()
    name = " ".join(word for word in (size, color if draw >= 0.12 else None, noun) if word)
    on_background = "" if draw < 0.08 or draw > 0.92 else f" on {with_article(background)} background"
    at = f" at the {position}" if position else ""
    return Sample(
        lead + with_article(name) + on_background + at,
        image,
        NOUNS.index(noun),
        COLORS.index(color),
        COLORS.index(background),
    )


def random_sample(rng, names=("named",) * NAMED_TOYS):
    """One captioned training image: a toy (50%), a patterned shape (6%) or a plain shape.

    `names`: names of the named toys, in order.
    """
    lead = pick(rng, ["", "", "", "a photo of ", "a picture of "])
    draw = rng.random()
    if draw < 0.5:
        return toy_sample(rng, names, lead, pick(rng, COLORS))
    triple = pick(rng, TRAINING_TRIPLES)
    return patterned_sample(rng, lead, *triple) if draw < 0.56 else plain_sample(rng, lead, *triple)


TRAINING_TRIPLES = triples(held_out=False)


def clutter(rng):
    """A more complex image without a caption, to train the VAE: gradients, several shapes of any color, noise."""

    def color():
        return tuple(int(v) for v in rng.integers(0, 256, 3))

    ramp = np.linspace(0, 1, CANVAS)[:, None]
    ramp = np.broadcast_to(ramp if rng.random() < 0.5 else ramp.T, (CANVAS, CANVAS))[..., None]
    image = (np.array(color()) * (1 - ramp) + np.array(color()) * ramp).astype(np.uint8)
    for _ in range(rng.integers(1, 5)):
        (x, y), radius = rng.uniform(20, CANVAS - 20, 2), rng.uniform(20, 90)
        pattern = pick(rng, PATTERNS)
        if rng.random() < 0.4:
            toy = Subject(
                pick(rng, BODIES),
                pattern,
                color(),
                color(),
                color(),
                bool(rng.random() < 0.5),
                bool(rng.random() < 0.5),
                rng.uniform(0.8, 1.2),
            )
            image = draw_toy(image, toy, x, y, max(radius, 40))
        else:
            image = draw_shape(image, pick(rng, NOUNS), pattern, color(), color(), x, y, radius, rng.uniform(-3, 3))
    if rng.random() < 0.2:
        image = np.clip(image + rng.normal(0, 10, image.shape), 0, 255).astype(np.uint8)
    return halve(image)
