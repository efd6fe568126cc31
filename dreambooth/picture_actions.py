"""What can be done with pictures and captions, one function each; beside :mod:`dreambooth.actions`, for the same
callers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth.errors import Cancelled, UserError
from dreambooth.files import expand
from dreambooth.settings import Folders
from dreambooth.settings.tagging import CPU, Tagging

if TYPE_CHECKING:
    from dreambooth.captioning.work import Captioned

Progress = Callable[[int, int, str], None]


def tag(
    folders: Folders,
    source: str | Path,
    options: Tagging,
    *,
    limit: int | None = None,
    write: bool = True,
    device: Any = None,
    borrow_gpu: Callable[[], Any] | None = None,
    progress: Progress = lambda done, total, what: None,
) -> dict[str, Any]:
    """Have a model write captions for the pictures of a folder, or of what else stands for some (see found.py).

    ``limit``: look at so many pictures only, spread over all; without ``write`` no file is touched, and what would
    have been written is in ``captions``. What was written before Cancel stays; ``state`` says "cancelled" then.
    ``borrow_gpu``: the host's context manager that frees the GPU for us and takes it back afterwards.
    """
    from dreambooth.captioning import finding, loading, work
    from dreambooth.captioning.answers import Counted
    from dreambooth.hosts.alone import best_device

    counted, rows = Counted(), []
    wanted = {folder: work.wanted_in(folder, options, counted) for folder in _folders_of(source)}
    wanted = work.spread(wanted, limit)
    n_wanted = sum(map(len, wanted.values()))
    state, notes, name = "done", [], options.model.strip()
    if n_wanted:
        path = finding.located(name, folders.models, options.token, progress)
        import torch

        on = torch.device("cpu") if options.device == CPU else device or best_device()
        with ExitStack() as used:
            if borrow_gpu and on.type != "cpu":
                progress(0, 0, "waiting for the WebUI to finish what it draws")
                used.enter_context(borrow_gpu())
            used.callback(_free_memory)
            progress(0, n_wanted, "loading the model")
            captioner = loading.load(path, options, on)
            notes = list(captioner.notes)
            try:
                for folder, its in wanted.items():
                    found = work.captioned(captioner, its, options, counted, progress)
                    for one in work.write_all(folder, found, counted, f"tagged with {name}") if write else found:
                        rows += [] if write else [_row(one)]
            except Cancelled:
                state = "cancelled"
            finally:
                del captioner
    told = dataclasses.asdict(counted)
    return {"state": state, "model": name, **told, "notes": notes + counted.notes, "captions": rows}


def _folders_of(source: str | Path) -> list[Path]:
    """The folders of instance pictures that a path stands for, each once."""
    from dreambooth.dataset.found import found_at

    if not str(source).strip():
        raise UserError("Give the folder with the pictures.")
    concepts = found_at(expand(str(source).strip())).concepts
    return list(dict.fromkeys(expand(concept.instance_data_dir) for concept in concepts))


def _row(one: Captioned) -> dict[str, Any]:
    tags = {tag.name: round(tag.score, 4) for tag in sorted(one.answer.tags, key=lambda tag: -tag.score)}
    return {"picture": str(one.wanted.picture), "caption": one.caption, "tags": tags}


def _free_memory() -> None:
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
