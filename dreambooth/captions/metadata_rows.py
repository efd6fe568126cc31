"""Rows of metadata files: file names of images with their captions, as datasets and trainers write them.

- kohya's fine-tuning scripts: a JSON object with a key for each image, and ``caption`` and ``tags`` as its value; or
  .jsonl with ``image_path`` and these keys
- Hugging Face's imagefolder: .jsonl or .csv with ``file_name`` (or ``file_names``), and a column with the caption
- a JSON list of such rows, or an object with a caption for each file name
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreambooth.captions.reading import decode_caption
from dreambooth.errors import UserError
from dreambooth.files import as_user_error, read_bounded

MAX_BYTES = 2**28  # a million images with long captions
# In the order in which they are looked for.
FILE_COLUMNS = ("file_name", "file_names", "image_path", "filename", "image_file", "image", "file", "path", "img")
CAPTION_COLUMNS = ("text", "caption", "captions", "prompt", "prompts", "description", "sentence", "label")
_TABLES = (".csv", ".tsv")
_LINES = (".jsonl", ".ndjson")
_BINARY = (".parquet", ".arrow", ".feather", ".tar", ".h5")


@dataclass(frozen=True)
class Row:
    """The captions of an image: several if one is chosen each time. ``tags``: only of kohya's files."""

    file: str
    captions: tuple[str, ...]
    tags: str | None = None


@dataclass(frozen=True)
class Rows:
    """``by_key``: as in kohya's JSON, file names may lack their extension and refer to the folder of the images."""

    rows: tuple[Row, ...]
    by_key: bool = False


def read_rows(path: Path) -> Rows:
    """The rows of a metadata file. UserError says what is wrong with it, and what is expected."""
    suffix = path.suffix.lower()
    if suffix in _BINARY:
        raise UserError(f"{path}: {_PACKED}")
    try:
        text = decode_caption(read_bounded(path, MAX_BYTES), path)[0]
    except OSError as error:
        raise as_user_error(error, path, "read") from error
    if suffix in _TABLES:
        return Rows(tuple(_rows_of_table(path, _parse_table(path, text))))
    if suffix in _LINES:
        return Rows(tuple(_rows_of_table(path, list(_parse_lines(path, text)))))
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a metadata file ({error}). {_EXPECTED}") from error
    return rows_of(path, data)


_PACKED = (
    "is a packed dataset, whose images can't be read. Export them as files, with their captions in a metadata.jsonl "
    "(file_name, text) or in a text file each."
)
_EXPECTED = (
    'It should be JSON like {"photo.png": {"caption": "a dog"}}, or lines (.jsonl) like {"file_name": "photo.png", '
    '"text": "a dog"}, or a table (.csv) with these columns.'
)


def looks_like_metadata(data: Any) -> bool:
    """Whether parsed JSON is a metadata file: file names with captions."""
    if isinstance(data, Mapping) and data:
        values = list(data.values())
        if _nested_rows(data):
            return True
        named = all(isinstance(value, Mapping) and not {"caption", "tags"}.isdisjoint(value) for value in values)
        texts = all(isinstance(value, str) for value in values) and all(_is_image_name(key) for key in data)
        return named or texts
    rows = isinstance(data, list) and bool(data) and all(isinstance(row, Mapping) for row in data)
    return rows and all(map(_is_row, data))


def _nested_rows(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of an object that contains them in a list, with the captions that COCO has in another one."""
    lists = [value for value in data.values() if isinstance(value, list) and all(isinstance(r, Mapping) for r in value)]
    rows = next((value for value in lists if value and all(map(_is_row, value))), [])
    texts: dict[Any, list[Any]] = {}
    for note in data.get("annotations") or [] if isinstance(data.get("annotations"), list) else []:
        if isinstance(note, Mapping) and "caption" in note:
            texts.setdefault(str(note.get("image_id")), []).append(note["caption"])
    if texts:
        rows = [{**row, "caption": texts.get(str(row.get("id")))} for row in rows]
    return [dict(row) for row in rows]


def _is_row(row: Mapping[str, Any]) -> bool:
    return _file_column(row) in FILE_COLUMNS[:4] or any(map(_is_image_name, _files(row)))


def _is_image_name(name: str) -> bool:
    from dreambooth.images.file_kinds import IMAGE_EXTENSIONS

    return Path(str(name)).suffix.lower() in IMAGE_EXTENSIONS


def rows_of(path: Path, data: Any) -> Rows:
    """The rows in parsed JSON."""
    if isinstance(data, list):
        if not data:
            raise UserError(f"{path} is not a metadata file: it is empty. {_EXPECTED}")
        return Rows(tuple(_rows_of_table(path, data)))
    if not isinstance(data, Mapping):
        raise UserError(f"{path} is not a metadata file (a JSON object with image paths as keys). {_EXPECTED}")
    nested = _nested_rows(data)
    if nested:
        return Rows(tuple(_rows_of_table(path, nested)))
    return Rows(tuple(_row_of_entry(path, str(key), entry) for key, entry in data.items()), by_key=True)


def _row_of_entry(path: Path, key: str, entry: Any) -> Row:
    if isinstance(entry, str):
        return Row(key, (entry,))
    if not isinstance(entry, Mapping):
        raise UserError(f"{path}: the value of {key!r} is not an object with caption or tags.")
    column = next((name for name in ("caption", *CAPTION_COLUMNS) if name in entry), "caption")
    tags = entry.get("tags")
    return Row(key, _texts(entry.get(column)) or ("",), None if tags is None else _joined_tags(tags))


def _joined_tags(tags: Any) -> str:
    return ", ".join(map(str, tags)) if isinstance(tags, list) else str(tags)


def _texts(value: Any) -> tuple[str, ...]:
    """The captions in a cell: a text, or several of which one is chosen each time."""
    if isinstance(value, (list, tuple)):
        return tuple(str(item) for item in value if item is not None)
    return () if value is None else (str(value),)


def _parse_lines(path: Path, text: str) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: strings may contain other line separators
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: is not valid JSON ({error}). Correct the line.") from error
        if not isinstance(row, Mapping):
            raise UserError(f"{path}, line {number}: is not an object. {_EXPECTED}")
        yield row


def _parse_table(path: Path, text: str) -> list[Mapping[str, Any]]:
    header = text.lstrip("\ufeff").split("\n", 1)[0]
    delimiter = max(",;\t|", key=header.count)
    first = header.split(delimiter)[0].strip(' "\r')
    columns = ["file_name", "text"] if _is_image_name(first) else None  # a table without a header
    try:
        lines = io.StringIO(text.lstrip("\ufeff"), newline="")
        rows = list(csv.DictReader(lines, fieldnames=columns, delimiter=delimiter))
    except csv.Error as error:
        raise UserError(f"{path} is not a valid table ({error}). Save it as CSV with UTF-8 text.") from error
    return [{str(key).strip(): value for key, value in row.items() if key is not None} for row in rows]


def _rows_of_table(path: Path, rows: Sequence[Any]) -> Iterator[Row]:
    if not rows:
        raise UserError(f"{path} contains no rows. {_EXPECTED}")
    wrong = next((number for number, row in enumerate(rows, 1) if not isinstance(row, Mapping)), 0)
    if wrong:
        raise UserError(f"{path}, row {wrong}: is not an object. {_EXPECTED}")
    columns = list(dict.fromkeys(str(key) for row in rows for key in row))
    if not any(_file_column(row) for row in rows):
        raise UserError(
            f"{path}: has no column with the file names of images, only {', '.join(columns[:8])}. Call it file_name."
        )
    caption = _caption_column(path, rows, columns)
    for number, row in enumerate(rows, 1):
        files = _files(row)
        if not files:
            raise UserError(f"{path}, row {number}: has no file name. Add it as file_name, or remove the row.")
        tags = row.get("tags") if caption != "tags" else None
        texts = _texts(row.get(caption))
        for file in files:
            yield Row(file, texts or ("",), None if tags is None else _joined_tags(tags))


def _file_column(row: Mapping[str, Any]) -> str:
    own = next((name for name in FILE_COLUMNS if row.get(name)), "")
    others = [str(key) for key in row if str(key).endswith(("_file_name", "_file_names"))]
    return own or (others[0] if len(others) == 1 else "")


def _files(row: Mapping[str, Any]) -> list[str]:
    value = row.get(_file_column(row))
    values = value if isinstance(value, (list, tuple)) else [value]
    names = [item.get("path") if isinstance(item, Mapping) else item for item in values]
    return [str(name).strip() for name in names if name and str(name).strip()]


def _caption_column(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """A column with a usual name, else the only other column with text."""
    known = next((name for name in CAPTION_COLUMNS if name in columns), "")
    if known or "tags" in columns:
        return known or "caption"
    files = {_file_column(row) for row in rows}
    texts = [name for name in columns if name not in files and any(isinstance(row.get(name), str) for row in rows)]
    if len(texts) == 1:
        return texts[0]
    found = f"{', '.join(texts[:8])} could be" if texts else "none is"
    raise UserError(f"{path}: of its columns, {found} the captions. Call the column with the captions text.")
