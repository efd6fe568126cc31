"""``captions``: count, search and edit the captions of a folder, with undo."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from dreambooth import actions
from dreambooth.captions import edits
from dreambooth.captions.folder import preview_line
from dreambooth.cli.in_job import in_job
from dreambooth.cli.options import add_option
from dreambooth.cli.truncation import first_lines, truncated
from dreambooth.errors import UserError
from dreambooth.settings import parse
from dreambooth.settings.caption_edits import (
    ADD_TAGS,
    EDIT_SCOPE,
    MERGE_TAGS,
    REMOVE_TAGS,
    REPLACE_TEXT,
    SORT_TAGS,
    TIDY_TAGS,
    AddTags,
    EditScope,
    MergeTags,
    RemoveTags,
    ReplaceText,
    SortTags,
    TidyTags,
)
from dreambooth.settings.declare import declared
from dreambooth.terminal import ProgressBar
from dreambooth.text import count

MAX_CHANGES = 20  # printed; --json has all

# Edits: their options, the positional ones, and metavars and help of these.
EDITS: dict[str, tuple[type, tuple[str, ...], tuple[str, ...], str]] = {
    "replace": (ReplaceText, ("find", "by"), ("X", "Y"), "replace X with Y"),
    "merge": (MergeTags, ("tags", "into"), ("TAGS", "TAG"), 'merge tags into one: "1boy, facial hair" Smith'),
    "add": (AddTags, ("tags",), ("TAGS",), "add tags"),
    "remove": (RemoveTags, ("tags",), ("TAGS",), "remove tags"),
    "sort": (SortTags, ("order",), ("ORDER",), "sort the tags of each caption by name or by count"),
    "tidy": (TidyTags, (), (), "remove duplicates, replace underscores"),
}
FIND = (ReplaceText, ("find",))
OPTIONS = {  # the other options; one that several edits have is the same for all
    key: setting
    for settings in (REPLACE_TEXT, MERGE_TAGS, ADD_TAGS, REMOVE_TAGS, SORT_TAGS, TIDY_TAGS, EDIT_SCOPE)
    for key, setting in settings.items()
    if key not in ("find", "by", "tags", "into", "order")
}


def add_captions(subparsers: Any, add_command: Callable[..., Any]) -> None:
    """``add_command(subparsers, name, run, help)`` returns the parser of a new command; see arguments.py."""
    parser = add_command(
        subparsers, "captions", captions, "count, search and edit the captions of a folder; edits can be undone"
    )
    parser.add_argument("path", metavar="FOLDER", help="folder with the images; or a concepts file with one folder")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--count", action="store_true", help="number of images with each tag")
    action.add_argument("--find", metavar="X", help="images whose caption contains X")
    for name, (_, _, metavars, help) in EDITS.items():
        values = {"nargs": len(metavars), "metavar": metavars} if metavars else {"action": "store_const", "const": []}
        action.add_argument(f"--{name}", **values, help=help)
    action.add_argument("--set", nargs=2, metavar=("IMAGE", "TEXT"), help="set the caption of one image")
    action.add_argument("--undo", action="store_true", help="undo the last edit")
    action.add_argument("--redo", action="store_true", help="redo the last undone edit")
    action.add_argument("--history", action="store_true", help="list the edits of this folder, newest first")
    parser.add_argument("--dry-run", action="store_true", help="only print what an edit would change")
    for setting in OPTIONS.values():
        add_option(parser, setting)


def captions(args: argparse.Namespace, bar: ProgressBar) -> Any:
    result = in_job("captions", lambda controls: _run(args, controls.cancellable(bar.show)))
    return result if args.json else _readable(result)


def _run(args: argparse.Namespace, progress: Any) -> dict[str, Any]:
    edit = next((name for name in EDITS if getattr(args, name) is not None), None)
    _refuse_unused_options(args, edit)
    if args.history:
        return {"state": "done", "history": actions.captions.history(args.path)}
    if args.undo or args.redo:
        step = actions.captions.undo if args.undo else actions.captions.redo
        return _written("undone" if args.undo else "redone", step(args.path, progress))
    read, scope = actions.captions.captions(args.path, progress), _given(EditScope, (), (), args)
    issues: dict[str, Any] = {"problems": list(read.problems)} if read.problems else {}
    if args.count:
        return _counted(actions.captions.within(read, scope)) | issues
    if args.find is not None:
        return _found(edits.find_matches(read, _given(*FIND, [args.find], args), scope)) | issues
    if edit is None:  # --set
        plan = edits.plan_text(actions.captions.file_of(read, args.set[0]), args.set[1])
    else:
        kind, keys, _, _ = EDITS[edit]
        plan = edits.plan_edit(read, _given(kind, keys, getattr(args, edit), args), scope)
    changes = [_change(planned) for planned in plan.changes]
    issues |= {"missing": list(plan.missing_tags)} if plan.missing_tags else {}
    if args.dry_run:
        return {"state": "planned", "what": plan.description, "files": len(changes), "changes": changes} | issues
    return _written("done", actions.captions.write(read.folder, plan, progress)) | {"changes": changes} | issues


def _given(kind: type, keys: tuple[str, ...], values: Any, args: argparse.Namespace) -> Any:
    """Options of this kind: the positional values of the edit, and the separate options."""
    own = {key: getattr(args, key) for key in declared(kind) if key in OPTIONS and getattr(args, key) is not None}
    return parse(kind, {**own, **dict(zip(keys, values, strict=True))})


def _refuse_unused_options(args: argparse.Namespace, edit: str | None) -> None:
    kind = EDITS[edit][0] if edit else ReplaceText if args.find is not None else None
    used = {*(declared(kind) if kind else ()), *(EDIT_SCOPE if kind or args.count else ())}
    given = [key for key in OPTIONS if key not in used and getattr(args, key) is not None]
    if args.dry_run and not edit and not args.set:
        given.append("dry_run")
    if given:
        raise UserError.from_problems([f"--{key.replace('_', '-')} has no effect here. Remove it." for key in given])


def _written(how: str, written: Any) -> dict[str, Any]:
    messages = list(written.messages)
    return {"state": "done", "what": written.description, "how": how, "files": written.n_files, "told": messages}


def _counted(read: Any) -> dict[str, Any]:
    counts = read.tag_counts()
    with_file = sum(file.data is not None for file in read.files)
    tags = [{"tag": tag, "pictures": n} for tag, n in counts.items()]
    return {"state": "done", "pictures": read.n_images, "caption_files": with_file, "tags": tags}


def _found(files: Any) -> dict[str, Any]:
    rows = [{"picture": str(image), "caption": file.text} for file in files for image in file.images]
    return {"state": "done", "pictures": len(rows), "found": rows}


def _change(planned: Any) -> dict[str, Any]:
    file = planned.file
    return {"file": str(file.path), "before": file.text, "after": planned.text, "notes": list(planned.side_effects)}


_STATES = {"broken off": "interrupted"}  # values in the JSON output, as people read them


def _readable(result: dict[str, Any]) -> str:
    """The result as text for a terminal."""
    lines: list[str] = []
    if "history" in result:
        lines += [
            f"{s['step']:6}  {s['when']}  {_STATES.get(s['state'], s['state']):11}  "
            f"{count(s['files'], 'file'):>9}  {s['what']}"
            for s in result["history"]
        ]
        lines = lines or ["No edits yet."]
    elif "tags" in result:
        lines += [
            f"{count(result['pictures'], 'image')}, {count(result['caption_files'], 'caption file')}, "
            f"{count(len(result['tags']), 'tag')}"
        ]
        lines += first_lines(result["tags"], lambda row: f"{row['pictures']:6}  {truncated(row['tag'])}")
    elif "found" in result:
        lines += first_lines(
            result["found"], lambda row: f"{truncated(row['picture'])}: {truncated(preview_line(row['caption']))}"
        )
        lines += [count(result["pictures"], "image")]
    else:
        lines += _edited(result)
    messages = (text for key in ("told", "missing", "problems") for text in first_lines(result.get(key, ()), truncated))
    return "\n".join([*lines, *messages])


def _changed(change: dict[str, Any]) -> str:
    notes = f" ({', '.join(change['notes'])})" if change["notes"] else ""
    before, after = (truncated(preview_line(change[key])) for key in ("before", "after"))
    return f"{truncated(change['file'])}{notes}\n  - {before}\n  + {after}"


def _edited(result: dict[str, Any]) -> list[str]:
    lines = first_lines(result.get("changes", []), _changed, MAX_CHANGES)
    if not result["what"]:
        return [*lines, "Nothing to do."]
    how = {"undone": "undone, ", "redone": "redone, "}.get(result.get("how", ""), "")
    change = "would change" if result["state"] == "planned" else "changed"
    return [*lines, f"{result['what']}: {how}{count(result['files'], 'file')} {change}."]
