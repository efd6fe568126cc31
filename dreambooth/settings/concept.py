"""A concept: one subject or style, its pictures and the words for it. Field names are the old extension's keys."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError
from dreambooth.files import expand, read_json
from dreambooth.settings.declare import declared, parse, setting

LINES = ("joined", "first", "random")
LARGEST = 2**24  # bytes of a list of concepts, which people write
AS_THE_RUN = "as the run"
SWITCH = (AS_THE_RUN, "on", "off")
READING_RULES = ("own", "kohya")


@dataclass(frozen=True, kw_only=True)
class Concept:
    """What is taught, with which pictures and words."""

    # fmt: off
    instance_data_dir: str = setting("", "Directories", "Dataset directory",
        "Folder with the pictures to learn from.")
    class_data_dir: str = setting("", "Directories", "Classification dataset directory",
        "Folder with pictures of the class in general, for prior preservation. Empty: none, or a folder of the "
        "model's own where class images are to be drawn.")
    validation_data_dir: str = setting("", "Directories", "Validation dataset directory",
        "Folder with pictures of the subject that are not trained, to measure what is learnt; empty: as Share of "
        "pictures held out says.")
    subfolders: bool = setting(True, "Directories", "Folders below too",
        "Also take the pictures in the folders inside. Off: only those right in the folder, as kohya does.")
    metadata_file: str = setting("", "Directories", "Metadata file",
        "A JSON file that names pictures and holds their captions, as kohya's fine-tuning scripts write it: only those "
        "pictures are taken, and caption files are not read.")
    regularization: bool = setting(False, "Directories", "Regularization pictures",
        "Its pictures show the class in general. They are shown among the others, together as often as all those, and "
        "count with the prior loss weight: kohya's way of prior preservation.")
    num_repeats: int = setting(1, "Directories", "Repeats",
        "How often each picture of this concept is shown in an epoch: more for a concept with fewer pictures.",
        low=1, high=10_000, step=1)
    max_steps: int = setting(0, "Directories", "Maximum training steps",
        "After so many showings of its pictures in a run this concept rests while the others go on; 0: never.",
        low=-1, high=10_000_000)
    instance_token: str = setting("", "Filewords", "Instance token",
        "A rare word that will name the subject.")
    class_token: str = setting("", "Filewords", "Class token",
        "What kind of thing the subject is: dog, person, toy.")
    instance_prompt: str = setting("[filewords]", "Training Prompts", "Instance prompt",
        "Text for each picture; [filewords] stands for its caption.")
    class_prompt: str = setting("[filewords]", "Training Prompts", "Class prompt",
        "Text for each class picture; [filewords] stands for its caption.")
    caption_extension: str = setting(".txt, .caption", "Captions", "Ending of caption files",
        "Of the files beside the pictures; of several, the first that is there. Empty: no caption files.")
    default_caption: str = setting("[filename]", "Captions", "Caption without a file",
        "For pictures that have no caption file; [filename] stands for the picture's name. Empty: no words.")
    caption_lines: str = setting("joined", "Captions", "Lines of a caption file",
        "joined: all are one caption. first: only the first one counts. random: each line is a caption, another one "
        "is drawn at each showing.", choices=LINES)
    reading_rule: str = setting("own", "Captions", "Reading rule",
        "own: captions are tidied, and brackets hold a tag together. kohya: which files are pictures and what their "
        "captions say is read word for word as kohya's scripts do, so that runs compare.", choices=READING_RULES)
    wildcards: bool = setting(False, "Captions", "Wildcards",
        "Of {red|green|blue} one is drawn at each showing; {{ and }} are brackets.")
    keep_separator: str = setting("", "Captions", "Separator of kept tags",
        "Where it stands in a caption, such as |||, the tags before it stay at the start, and those after a second one "
        "at the end, in place of counting Keep tags.")
    second_separator: str = setting("", "Captions", "Separator inside tags",
        "Becomes a comma after shuffling, so that tags which it joins, such as a;;;b, stay together.")
    shuffle_tags: str = setting(AS_THE_RUN, "Instead of the run's settings", "Shuffle tags of this concept",
        "As under Tuning.", choices=SWITCH)
    keep_tokens: int = setting(-1, "Instead of the run's settings", "Keep tags of this concept",
        "As under Tuning; -1: as the run.", low=-1, high=255, step=1)
    tag_dropout: float = setting(-1.0, "Instead of the run's settings", "Tag dropout of this concept",
        "As under Tuning; -1: as the run.", low=-1, high=1, step=0.05)
    caption_dropout: float = setting(-1.0, "Instead of the run's settings", "Caption dropout of this concept",
        "As under Tuning; -1: as the run.", low=-1, high=1, step=0.05)
    hflip: str = setting(AS_THE_RUN, "Instead of the run's settings", "Horizontal flip of this concept",
        "As under Image Processing.", choices=SWITCH)
    num_class_images_per: int = setting(0, "Class Image Generation", "Class images per instance image",
        "The model draws what is missing before it learns, from the class prompt, and keeps it for the next run. "
        "0: take what lies in the classification directory.", low=0, high=1000, step=1)
    class_negative_prompt: str = setting("", "Class Image Generation", "Classification negative prompt",
        "What class images should not show.")
    class_guidance_scale: float = setting(7.5, "Class Image Generation", "Classification CFG scale",
        "How strictly class images follow the prompt.", low=1, high=30, step=0.1)
    class_infer_steps: int = setting(40, "Class Image Generation", "Classification steps",
        "Sampling steps of class images.", low=1, high=1000, step=1)
    save_sample_prompt: str = setting("[filewords]", "Sample Prompts", "Sample image prompt",
        "What previews show; [filewords] takes the captions of the instance pictures in turn.")
    save_sample_negative_prompt: str = setting("", "Sample Prompts", "Sample negative prompt",
        "What previews should not show.")
    n_save_sample: int = setting(1, "Sample Image Generation", "Number of samples to generate",
        "Pictures per preview.", low=0, high=100, step=1)
    sample_seed: int = setting(-1, "Sample Image Generation", "Sample seed",
        "Seed of the first preview picture; -1: the training seed.", low=-1, high=2**32 - 1)
    save_guidance_scale: float = setting(7.5, "Sample Image Generation", "Sample CFG scale",
        "How strictly previews follow the prompt.", low=1, high=30, step=0.1)
    save_infer_steps: int = setting(20, "Sample Image Generation", "Sample steps",
        "Sampling steps of previews.", low=1, high=1000, step=1)
    # fmt: on


CONCEPT = declared(Concept)
# Of the old extension's concepts: fields that follow from others.
NOT_YET = ("save_sample_template", "is_valid")
_PATHS = ("instance_data_dir", "class_data_dir", "validation_data_dir", "metadata_file")


def parse_concepts(
    values: Any, beside: Path | None = None, strict: bool = True
) -> tuple[tuple[Concept, ...], list[str]]:
    """Concepts from plain values, and the names of keys in them that have no effect.

    ``beside``: the folder that relative picture folders are meant from (that of a concepts file). ``strict=False``
    reports unknown keys in place of refusing them.
    """
    if not isinstance(values, Sequence) or not all(isinstance(value, Mapping) for value in values):
        raise UserError('Concepts are a list of objects, such as [{"instance_data_dir": "pictures", ...}].')
    concepts, ignored, problems = [], [], []
    for number, value in enumerate(values, 1):
        ignored += [key for key in value if key in NOT_YET and value[key] not in ("", None, 0)]
        given = {key: item for key, item in value.items() if key not in NOT_YET and item is not None}
        if not strict:
            ignored += given.keys() - CONCEPT.keys()
            given = {key: item for key, item in given.items() if key in CONCEPT}
        try:
            concepts.append(_resolve(parse(Concept, given, where=f"concept {number}: "), beside))
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError.several(problems)
    return tuple(concepts), sorted(set(ignored))


def read_concepts(source: str | Path) -> tuple[tuple[Concept, ...], list[str]]:
    """Concepts from a JSON file, or from JSON text."""
    if isinstance(source, str) and source.lstrip().startswith("["):
        try:
            return parse_concepts(json.loads(source))
        except (ValueError, RecursionError) as error:
            raise UserError(f"The concepts are not valid JSON ({error}).") from error
    path = expand(source)
    return parse_concepts(read_json(path, LARGEST), beside=path.resolve().parent)


def concept_values(concept: Concept) -> dict[str, Any]:
    return dataclasses.asdict(concept)


def _resolve(concept: Concept, beside: Path | None) -> Concept:
    changed = {}
    for key in _PATHS:
        folder = getattr(concept, key)
        if folder and beside is not None:
            changed[key] = str((beside / expand(folder)).resolve())
    return dataclasses.replace(concept, **changed)
