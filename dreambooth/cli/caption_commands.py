"""The word ``captions``: what stands in a folder's captions, edits of them, and the way back."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from dreambooth import actions
from dreambooth.captions.folder import one_line
from dreambooth.cli.commands import in_job
from dreambooth.cli.options import add_option
from dreambooth.cli.truncation import line, shown
from dreambooth.errors import UserError
from dreambooth.settings import parse
from dreambooth.settings.caption_edits import (
    ADD_TAGS,
    MERGE_TAGS,
    REMOVE_TAGS,
    REPLACE_TEXT,
    EDIT_SCOPE,
    SORT_TAGS,
    TIDY_TAGS,
    AddTags,
    MergeTags,
    RemoveTags,
    ReplaceText,
    EditScope,
    SortTags,
    TidyTags,
)
from dreambooth.settings.declare import declared
from dreambooth.terminal import ProgressBar

CHANGES = 20  # that are printed; --json has all

# What can be done: its options, those that follow the word itself, and how the help calls them.
EDITS: dict[str, tuple[type, tuple[str, ...], tuple[str, ...], str]] = {
    "replace": (ReplaceText, ("find", "by"), ("X", "Y"), "put Y where X stands"),
    "merge": (MergeTags, ("tags", "into"), ("TAGS", "TAG"), 'make several tags one: "1boy, facial hair" Smith'),
    "add": (AddTags, ("tags",), ("TAGS",), "add tags"),
    "remove": (RemoveTags, ("tags",), ("TAGS",), "take tags out"),
    "sort": (SortTags, ("order",), ("ORDER",), "sort the tags of each caption by name or by count"),
    "tidy": (TidyTags, (), (), "take out duplicates, exchange underscores"),
}
FIND = (ReplaceText, ("find",))
MORE = {  # options of one's own, each declared once for all edits that have it
    key: setting
    for known in (REPLACE_TEXT, MERGE_TAGS, ADD_TAGS, REMOVE_TAGS, SORT_TAGS, TIDY_TAGS, EDIT_SCOPE)
    for key, setting in known.items()
    if key not in ("find", "by", "tags", "into", "order")
}


def add_word(words: Any, word: Callable[..., Any]) -> None:
    parser = word(
        words, "captions", captions, "count, search and edit the captions of a folder; each edit can be undone"
    )
    parser.add_argument("path", metavar="FOLDER", help="with the pictures; or a concepts list that names one folder")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--count", action="store_true", help="in how many pictures each tag stands")
    what.add_argument("--find", metavar="X", help="the pictures in whose captions X stands")
    for name, (_, _, metavars, help) in EDITS.items():
        how = {"nargs": len(metavars), "metavar": metavars} if metavars else {"action": "store_const", "const": []}
        what.add_argument(f"--{name}", **how, help=help)
    what.add_argument("--set", nargs=2, metavar=("PICTURE", "TEXT"), help="the caption of one picture")
    what.add_argument("--undo", action="store_true", help="take back the last edit")
    what.add_argument("--redo", action="store_true", help="do again what was taken back last")
    what.add_argument("--history", action="store_true", help="the edits of this folder, newest first")
    parser.add_argument("--dry-run", action="store_true", help="only say what an edit would change")
    for setting in MORE.values():
        add_option(parser, setting)


def captions(args: argparse.Namespace, bar: ProgressBar) -> Any:
    done = in_job("captions", lambda controls: _done(args, controls.cancellable(bar.show)))
    return done if args.json else _readable(done)


def _done(args: argparse.Namespace, progress: Any) -> dict[str, Any]:
    edit = next((name for name in EDITS if getattr(args, name) is not None), None)
    _refuse_without_effect(args, edit)
    if args.history:
        return {"state": "done", "history": actions.captions.history(args.path)}
    if args.undo or args.redo:
        back = actions.captions.undo if args.undo else actions.captions.redo
        return _written("undone" if args.undo else "redone", back(args.path, progress))
    read, scope = actions.captions.captions(args.path, progress), _given(EditScope, (), (), args)
    found: dict[str, Any] = {"problems": list(read.problems)} if read.problems else {}
    if args.count:
        return _counted(actions.captions.within(read, scope)) | found
    if args.find is not None:
        return _found(actions.captions.find(read, _given(*FIND, [args.find], args), scope)) | found
    if edit is None:  # then it is --set
        plan = actions.captions.plan_by_hand(actions.captions.file_of(read, args.set[0]), args.set[1])
    else:
        kind, keys, _, _ = EDITS[edit]
        plan = actions.captions.plan(read, _given(kind, keys, getattr(args, edit), args), scope)
    changes = [_change(planned) for planned in plan.changes]
    found |= {"missing": list(plan.missing)} if plan.missing else {}
    if args.dry_run:
        return {"state": "planned", "what": plan.what, "files": len(changes), "changes": changes} | found
    return _written("done", actions.captions.write(read.folder, plan, progress)) | {"changes": changes} | found


def _given(kind: type, keys: tuple[str, ...], values: Any, args: argparse.Namespace) -> Any:
    """The options of this kind: those that follow its word, and those that stand for themselves."""
    own = {key: getattr(args, key) for key in declared(kind) if key in MORE and getattr(args, key) is not None}
    return parse(kind, {**own, **dict(zip(keys, values, strict=True))})


def _refuse_without_effect(args: argparse.Namespace, edit: str | None) -> None:
    kind = EDITS[edit][0] if edit else ReplaceText if args.find is not None else None
    used = {*(declared(kind) if kind else ()), *(EDIT_SCOPE if kind or args.count else ())}
    given = [key for key in MORE if key not in used and getattr(args, key) is not None]
    if args.dry_run and not edit and not args.set:
        given.append("dry_run")
    if given:
        raise UserError.from_problems([f"--{key.replace('_', '-')} has no effect here: leave it out." for key in given])


def _written(how: str, written: Any) -> dict[str, Any]:
    return {"state": "done", "what": written.what, "how": how, "files": written.files, "told": list(written.told)}


def _counted(read: Any) -> dict[str, Any]:
    counts = read.counts()
    with_file = sum(file.data is not None for file in read.files)
    tags = [{"tag": tag, "pictures": count} for tag, count in counts.items()]
    return {"state": "done", "pictures": read.pictures, "caption_files": with_file, "tags": tags}


def _found(files: Any) -> dict[str, Any]:
    rows = [{"picture": str(picture), "caption": file.text} for file in files for picture in file.pictures]
    return {"state": "done", "pictures": len(rows), "found": rows}


def _change(planned: Any) -> dict[str, Any]:
    file = planned.file
    return {"file": str(file.path), "before": file.text, "after": planned.text, "notes": list(planned.notes)}


def _readable(done: dict[str, Any]) -> str:
    """The same for people."""
    lines: list[str] = []
    if "history" in done:
        lines += [
            f"{s['step']:6}  {s['when']}  {s['state']:10}  {s['files']} files  {s['what']}" for s in done["history"]
        ]
        lines = lines or ["No edit yet."]
    elif "tags" in done:
        lines += [f"{done['pictures']} pictures, {done['caption_files']} caption files, {len(done['tags'])} tags"]
        lines += shown(done["tags"], lambda row: f"{row['pictures']:6}  {line(row['tag'])}")
    elif "found" in done:
        lines += shown(done["found"], lambda row: f"{line(row['picture'])}: {line(one_line(row['caption']))}")
        lines += [f"{done['pictures']} pictures"]
    else:
        lines += _edited(done)
    return "\n".join(
        [*lines, *(text for key in ("told", "missing", "problems") for text in shown(done.get(key, ()), line))]
    )


def _changed(change: dict[str, Any]) -> str:
    notes = f" ({', '.join(change['notes'])})" if change["notes"] else ""
    before, after = (line(one_line(change[key])) for key in ("before", "after"))
    return f"{line(change['file'])}{notes}\n  - {before}\n  + {after}"


def _edited(done: dict[str, Any]) -> list[str]:
    lines = shown(done.get("changes", []), _changed, CHANGES)
    if not done["what"]:
        return [*lines, "There is nothing to do."]
    how = {"undone": "undone, ", "redone": "redone, "}.get(done.get("how", ""), "")
    change = "would change" if done["state"] == "planned" else "changed"
    return [*lines, f"{done['what']}: {how}{done['files']} {'file' if done['files'] == 1 else 'files'} {change}."]
