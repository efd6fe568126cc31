"""A metadata file, which lists images with their captions, as a concept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dreambooth.captions.metadata_file import MetadataFile
from dreambooth.captions.metadata_rows import looks_like_metadata, read_rows
from dreambooth.errors import UserError
from dreambooth.files import as_user_error
from dreambooth.interop.data_file import DataFile
from dreambooth.interop.kohya.import_report import ImportReport
from dreambooth.settings import Concept
from dreambooth.text import count

NAME = "metadata of images (metadata.jsonl, metadata.csv, meta_cap.json)"
SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", ".feather")  # of files that hold nothing else


def recognize(data: Any) -> bool:
    return looks_like_metadata(data)


def read_metadata(path: Path) -> DataFile:
    """The file names and captions in a file of one of SUFFIXES."""
    try:
        rows = read_rows(path).rows
    except OSError as error:
        raise as_user_error(error, path, "read") from error
    return DataFile(path, [{"file_name": row.file, "text": list(row.captions)} for row in rows])


def import_file(report: ImportReport, file: DataFile) -> None:
    """A concept of the listed images, which are in the file's folder or below it, or named with their whole path."""
    concept = Concept(instance_data_dir=str(file.path.absolute().parent), metadata_file=str(file.path.absolute()))
    metadata = MetadataFile.from_concept(concept)
    existing = metadata.existing()
    if not existing:
        raise UserError(
            f"{file.path} lists {count(len(metadata.paths), 'image')}, but none of them exists (such as "
            f"{metadata.paths[0]}). Put the file into the folder of its images, or enter both in a concept."
        )
    report.concepts.append(concept)
    report.imported.append(f"{file.path} -> concept 1, {count(len(existing), 'image')} with captions")
