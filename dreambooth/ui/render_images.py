"""HTML of images as a run would use them: gallery, table, totals. Everything that comes from users is escaped here."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dreambooth.text import count, format_bytes, format_duration, printable
from dreambooth.ui.render import table

Row = Mapping[str, Any]  # of dreambooth.dataset.table


def image_table(rows: Sequence[Row]) -> str:
    """Table of the images of the plan that training follows."""
    return table(COLUMNS, rows, cell=str, see_all=": see Dataset preview, under Images")


def gallery(rows: Sequence[Row], numbers: Sequence[int], uris: Sequence[str], page: int, pages: int) -> str:
    """Thumbnails with their crops. ``numbers``: of the rows, sent by a click; ``page``: from 0."""
    figures = "".join(map(_figure, rows, numbers, uris))
    return f'<p class="db_where">Page {page + 1:,} of {pages:,}</p><div class="db_pictures">{figures}</div>'


def large(row: Row | None, uri: str) -> str:
    """One image with all columns of its row; "" for None."""
    if row is None:
        return ""
    return (
        '<div class="db_large" role="dialog"><div class="db_large_inner">'
        f'<button type="button" class="db_close" aria-label="Close">×</button>{_frame(row, uri)}'
        f'<div class="db_large_words"><p>{_name(row)}</p>{_details(row)}</div></div></div>'
    )


def thumbnail(name: str, uri: str) -> str:
    """One image with its name."""
    image = f'<img src="{uri}" alt="{_escaped(name)}">' if uri else '<span class="db_unseen">can’t be shown</span>'
    return f'<div class="db_thumbnail" title="{_escaped(name)}">{image}</div>'


def totals(sums: Mapping[str, Any], warnings: Sequence[str]) -> str:
    """Totals and warnings of a DataReport."""
    cells = "".join(f"<dt>{name}</dt><dd>{_escaped(text)}</dd>" for name, text in _totals(sums) if text)
    warning_lines = "".join(f'<p class="db_warning">{_escaped(text)}</p>' for text in warnings)
    return f'<dl class="db_facts db_totals">{cells}</dl>{warning_lines}'


def _totals(sums: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(label, value) for each total."""
    images = [count(sums["pictures"], "image")]
    for key, noun in (("class_pictures", "class image"), ("validation_pictures", "validation image")):
        images += [count(sums[key], noun)] if sums.get(key) else []
    images += [f"{sums['left_out']:,} left out"] if sums.get("left_out") else []
    to_generate = sums.get("class_images_to_draw")
    images += [f"{count(to_generate, 'class image')} to generate first"] if to_generate else []
    samples = f"{count(sums['showings_per_epoch'], 'sample')} in {count(sums['steps_per_epoch'], 'step')} per epoch"
    memory = f"about {format_bytes(sums['memory_bytes'])} on {sums['device']}" if sums.get("memory_bytes") else ""
    seconds = sums.get("seconds")
    time = f"about {format_duration(seconds)} at the last run's speed" if seconds else "known after the first steps"
    return [
        ("Images", " · ".join(images)),
        ("Run", f"{samples} · {count(sums['epochs'], 'epoch')} · {count(sums['steps'], 'step')}"),
        ("Time", time),
        ("Memory", memory),
        ("Cache", f"about {format_bytes(sums['cache_bytes'])} on disk"),
        ("Buckets", ", ".join(f"{_size(bucket['size'])}: {bucket['pictures']:,}" for bucket in sums["buckets"])),
        ("Warnings", ", ".join(f"{kind}: {n:,}" for kind, n in sums["notes"].items())),
    ]


def _figure(row: Row, number: int, uri: str) -> str:
    name = _escaped(Path(row["path"]).name)
    warnings = "&#10;".join(_escaped(text) for text in row["warnings"])
    mark = f'<b class="db_mark" title="{warnings}">{len(row["warnings"])}</b>' if warnings else ""
    if "bucket" in row:
        repeats = f" · {row['repeats']}×" if row["repeats"] > 1 else ""
        below = f"{_size(row['bucket'])} · {row['kept']:.0%}{repeats}"
    else:
        below = row["kind"]
    kind = row["kind"].replace(" ", "_")
    return (
        f'<figure class="db_picture db_{kind}" data-number="{number}" tabindex="0" role="button" title="{name}">'
        f'<div class="db_stage">{_frame(row, uri)}</div>{mark}'
        f"<figcaption>{name}<small>{below}</small></figcaption></figure>"
    )


def _frame(row: Row, uri: str) -> str:
    """The image, darkened outside of its crop."""
    if not uri:
        return '<div class="db_frame db_unseen">can’t be shown</div>'
    image = f'<img src="{uri}" alt="{_escaped(Path(row["path"]).name)}">'
    if "crop" not in row:
        return f'<div class="db_frame">{image}</div>'
    (width, height), (left, top, right, bottom) = row["size"], row["crop"]
    fractions = {"left": left / width, "top": top / height, "width": (right - left) / width,
                 "height": (bottom - top) / height}  # fmt: skip
    position = "; ".join(f"{side}: {fraction:.3%}" for side, fraction in fractions.items())
    ratio = f"aspect-ratio: {width} / {height}; --db-ratio: {width / height:.4f}"
    return f'<div class="db_frame" style="{ratio}">{image}<i class="db_crop" style="{position}"></i></div>'


def _details(row: Row) -> str:
    cells = [(name, cell(row)) for name, cell in COLUMNS.items() if name != "Image"]
    return f'<dl class="db_facts">{"".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in cells if text)}</dl>'


def _name(row: Row) -> str:
    of = f"concept {row['concept']}, {row['kind']}" if "concept" in row else row["kind"]
    return f'<span title="{_escaped(row["path"])}">{_escaped(Path(row["path"]).name)}</span><small>{of}</small>'


def _caption(row: Row) -> str:
    """All captions that may be used, with the truncated part struck through; their source and variation; warnings."""
    texts = (_truncated(caption, row["cut_off"]) for caption in row.get("captions", ()))
    captions = "<br>".join(f'<span translate="no">{text}</span>' for text in texts)
    below = [f"from {row['caption_from']}", *row["varies"]] if captions else []
    warnings = "".join(f'<p class="db_warning">{_escaped(text)}</p>' for text in row["warnings"])
    return f"{captions}<small>{_escaped(' · '.join(below))}</small>{warnings}"


def _truncated(caption: str, cut_off: str) -> str:
    if not cut_off or not caption.endswith(cut_off):
        return _escaped(caption)
    used = caption[: len(caption) - len(cut_off)]
    return f'{_escaped(used)}<del title="beyond the token limit">{_escaped(cut_off)}</del>'


def _tokens(row: Row) -> str:
    cut_off = row.get("cut_off", "")
    return f'<span class="db_lost">{row["tokens"]}</span>' if cut_off else str(row.get("tokens", ""))


def _class_images(row: Row) -> str:
    names = [_escaped(name) for name in row.get("class_partner_names", ())]
    n = row.get("class_partners", 0)
    return f'<span title="{", ".join(names)}">1 of {n:,}</span>' if n else ""


def _upscaled(row: Row) -> str:
    return f"{row['enlarged']:.1f} ×" if row.get("enlarged", 0) > 1 else ""


def _escaped(text: str) -> str:
    """HTML of a text that may contain file names with bytes that are not UTF-8."""
    return html.escape(printable(text))


def _size(size: Sequence[int]) -> str:
    return " × ".join(map(str, size))


COLUMNS: dict[str, Callable[[Row], str]] = {
    "Image": _name,
    "Training caption": _caption,
    "Tokens": _tokens,
    "Bucket": lambda row: _size(row.get("bucket", ())),
    "Kept area": lambda row: f"{row['kept']:.0%}" if "kept" in row else "",
    "Repeats": lambda row: str(row.get("repeats", "")),
    "Class image": _class_images,
    "Size": lambda row: _size(row.get("size", ())),
    "Upscaled": _upscaled,
}
