"""The labels of a WD14 tagger: selected_tags.csv."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dreambooth.captioning.base import Prediction, Tag
from dreambooth.errors import UserError
from dreambooth.files import as_user_error

# Danbooru's categories of the taggers. Ratings (9) do not describe the image.
GENERAL, CHARACTER = "0", "4"


@dataclass(frozen=True)
class Labels:
    """The label of each model output, in order."""

    path: Path
    names: tuple[str, ...]
    categories: tuple[str, ...]

    def predict(self, scores: Sequence[float], general: float, character: float) -> Prediction:
        """The tags whose score (0 to 1) is above the threshold of their kind."""
        thresholds = {GENERAL: general, CHARACTER: character}
        rows = zip(self.names, self.categories, scores, strict=True)
        return Prediction(tuple(Tag(name, score) for name, kind, score in rows if score > thresholds.get(kind, 1)))

    def require(self, n_outputs: int) -> None:
        if n_outputs != len(self.names):
            raise UserError(
                f"{self.path} has {len(self.names)} labels, but the model has {n_outputs} outputs. Download both "
                "files from the same repository."
            )


def read_labels(path: Path) -> Labels:
    """The labels: columns tag_id, name, category, count. UserError names the file."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise as_user_error(error, path, "read") from error
    except (ValueError, csv.Error) as error:
        raise UserError(
            f"{path} is not a label list ({error}). Download it again from the model's repository."
        ) from error
    if not rows or not all(row.get("name") and row.get("category") for row in rows):
        raise UserError(f"{path} is not a label list: each row needs a name and a category.")
    return Labels(path, tuple(row["name"] for row in rows), tuple(row["category"].strip() for row in rows))
