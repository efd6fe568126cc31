"""The list of tags of a WD14 tagger: selected_tags.csv."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dreambooth.captioning.base import Answer, Tag
from dreambooth.errors import UserError
from dreambooth.files import as_user_error

# Of Danbooru's categories those that the taggers were trained with. Ratings (9) say nothing of what is to be seen.
GENERAL, CHARACTER = "0", "4"


@dataclass(frozen=True)
class Labels:
    """What each of the model's outputs stands for, in their order."""

    path: Path
    names: tuple[str, ...]
    categories: tuple[str, ...]

    def answer(self, scores: Sequence[float], general: float, character: float) -> Answer:
        """The tags whose score (0 to 1) is above the threshold of their kind."""
        least = {GENERAL: general, CHARACTER: character}
        rows = zip(self.names, self.categories, scores, strict=True)
        return Answer(tuple(Tag(name, score) for name, kind, score in rows if score > least.get(kind, 1)))

    def require(self, n_outputs: int) -> None:
        if n_outputs != len(self.names):
            raise UserError(
                f"{self.path} names {len(self.names)} tags, but the model has {n_outputs} outputs: they are not of "
                "one model. Take both files from the same place."
            )


def read_labels(path: Path) -> Labels:
    """The list, as published beside the models: columns tag_id, name, category, count. UserError names the file."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise as_user_error(error, path, "read") from error
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path} is no list of tags ({error}). Take it from where the model comes from.") from error
    if not rows or not all(row.get("name") and row.get("category") for row in rows):
        raise UserError(f"{path} is no list of tags: it needs columns name and category, filled in each row.")
    return Labels(path, tuple(row["name"] for row in rows), tuple(row["category"].strip() for row in rows))
