"""Pictures as a run would use them, as HTML: gallery, table, totals. What people wrote is escaped here."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dreambooth.ui.render import gigabytes, table
from dreambooth.ui.run_view import duration

Row = Mapping[str, Any]


def image_table(rows: Sequence[Row]) -> str:
    """What will be trained, picture by picture, from the very plan that training follows."""
    return table(COLUMNS, rows, cell=str, elsewhere=": Look, under Pictures, shows all")


def gallery(rows: Sequence[Row], numbers: Sequence[int], uris: Sequence[str], page: int, pages: int) -> str:
    """The pictures with what is cut out of them; ``numbers`` are what a click on one tells (javascript/). ``page``
    counts from 0.
    """
    figures = "".join(map(_figure, rows, numbers, uris))
    return f'<p class="db_where">Page {page + 1:,} of {pages:,}</p><div class="db_pictures">{figures}</div>'


def large(row: Row | None, uri: str) -> str:
    """One picture, with all that is to be known of it; nothing for None."""
    if row is None:
        return ""
    return (
        '<div class="db_large" role="dialog"><div class="db_large_inner">'
        f'<button type="button" class="db_close" aria-label="Close">×</button>{_frame(row, uri)}'
        f'<div class="db_large_words"><p>{_name(row)}</p>{_words(row)}</div></div></div>'
    )


def totals(sums: Mapping[str, Any], warnings: Sequence[str]) -> str:
    """What the run comes to."""
    cells = "".join(f"<dt>{name}</dt><dd>{_escaped(text)}</dd>" for name, text in _sums(sums) if text)
    told = "".join(f'<p class="db_warning">{_escaped(text)}</p>' for text in warnings)
    return f'<dl class="db_facts db_totals">{cells}</dl>{told}'


def _sums(sums: Mapping[str, Any]) -> list[tuple[str, str]]:
    n, buckets = sums["pictures"], sums["buckets"]
    pictures = [f"{n:,} {'picture' if n == 1 else 'pictures'}"]
    kinds = {"class_pictures": "class pictures", "validation_pictures": "only measured on", "left_out": "left out",
             "class_images_to_draw": "class images to be drawn first"}  # fmt: skip
    pictures += [f"{sums[key]:,} {words}" for key, words in kinds.items() if sums.get(key)]
    showings = f"{sums['showings_per_epoch']:,} showings in {sums['steps_per_epoch']:,} steps per epoch"
    memory = gigabytes(sums["memory_bytes"]) + f" on {sums['device']}" if sums.get("memory_bytes") else ""
    pace = sums.get("seconds")
    return [
        ("Pictures", " · ".join(pictures)),
        ("Run", f"{showings} · {sums['epochs']:,} epochs · {sums['steps']:,} steps"),
        ("Time", f"about {duration(pace)} at the last run's speed" if pace else "known after the first steps"),
        ("Memory", f"about {memory}" if memory else ""),
        ("Cache", f"about {gigabytes(sums['cache_bytes'])} on disk"),
        ("Buckets", ", ".join(f"{_size(bucket['size'])}: {bucket['pictures']:,}" for bucket in buckets)),
        ("Notes", ", ".join(f"{kind}: {count:,}" for kind, count in sums["notes"].items())),
    ]


def _figure(row: Row, number: int, uri: str) -> str:
    name = _escaped(Path(row["path"]).name)
    told = "&#10;".join(_escaped(text) for text in row["warnings"])
    mark = f'<b class="db_mark" title="{told}">{len(row["warnings"])}</b>' if told else ""
    if "bucket" in row:
        words = f"{_size(row['bucket'])} · {row['kept']:.0%}" + (f" · {row['repeats']}×" if row["repeats"] > 1 else "")
    else:
        words = row["kind"]
    kind = row["kind"].replace(" ", "_")
    return (
        f'<figure class="db_picture db_{kind}" data-number="{number}" tabindex="0" role="button" title="{name}">'
        f'<div class="db_stage">{_frame(row, uri)}</div>{mark}'
        f"<figcaption>{name}<small>{words}</small></figcaption></figure>"
    )


def _frame(row: Row, uri: str) -> str:
    """The picture, dark where it is cut off."""
    if not uri:
        return '<div class="db_frame db_unseen">can’t be shown</div>'
    image = f'<img src="{uri}" alt="{_escaped(Path(row["path"]).name)}">'
    if "crop" not in row:
        return f'<div class="db_frame">{image}</div>'
    (width, height), (left, top, right, bottom) = row["size"], row["crop"]
    shares = {"left": left / width, "top": top / height, "width": (right - left) / width,
              "height": (bottom - top) / height}  # fmt: skip
    place = "; ".join(f"{side}: {share:.3%}" for side, share in shares.items())
    fits = f"aspect-ratio: {width} / {height}; --db-ratio: {width / height:.4f}"
    return f'<div class="db_frame" style="{fits}">{image}<i class="db_crop" style="{place}"></i></div>'


def _words(row: Row) -> str:
    cells = [(name, cell(row)) for name, cell in COLUMNS.items() if name != "Picture"]
    return f'<dl class="db_facts">{"".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in cells if text)}</dl>'


def _name(row: Row) -> str:
    of = f"concept {row['concept']}, {row['kind']}" if "concept" in row else row["kind"]
    return f'<span title="{_escaped(row["path"])}">{_escaped(Path(row["path"]).name)}</span><small>{of}</small>'


def _caption(row: Row) -> str:
    """All that may be shown, what is cut off struck through; below it where it is from, what varies, what is noted."""
    captions = "<br>".join(_struck(caption, row["cut_off"]) for caption in row.get("captions", ()))
    below = [f"from {row['caption_from']}", *row["varies"]] if captions else []
    notes = "".join(f'<p class="db_warning">{_escaped(text)}</p>' for text in row["warnings"])
    return f"{captions}<small>{_escaped(' · '.join(below))}</small>{notes}"


def _struck(caption: str, lost: str) -> str:
    if not lost or not caption.endswith(lost):
        return _escaped(caption)
    kept = caption[: len(caption) - len(lost)]
    return f'{_escaped(kept)}<del title="too long: this is lost">{_escaped(lost)}</del>'


def _tokens(row: Row) -> str:
    lost = row.get("cut_off", "")
    return f'<span class="db_lost">{row["tokens"]}</span>' if lost else str(row.get("tokens", ""))


def _partners(row: Row) -> str:
    names = [_escaped(name) for name in row.get("class_partner_names", ())]
    count = row.get("class_partners", 0)
    return f'<span title="{", ".join(names)}">1 of {count:,}</span>' if count else ""


def _enlarged(row: Row) -> str:
    return f"{row['enlarged']:.1f} ×" if row.get("enlarged", 0) > 1 else ""


def _escaped(text: str) -> str:
    """Also without what no page can be sent: bytes of a file's name that are of no script."""
    return html.escape(text.encode("utf-8", errors="replace").decode("utf-8"))


def _size(size: Sequence[int]) -> str:
    return " × ".join(map(str, size))


COLUMNS: dict[str, Callable[[Row], str]] = {
    "Picture": _name,
    "Caption as it is trained": _caption,
    "Tokens": _tokens,
    "Bucket": lambda row: _size(row.get("bucket", ())),
    "Kept": lambda row: f"{row['kept']:.0%}" if "kept" in row else "",
    "Repeats": lambda row: str(row.get("repeats", "")),
    "Class partner": _partners,
    "Size": lambda row: _size(row.get("size", ())),
    "Enlarged": _enlarged,
}
