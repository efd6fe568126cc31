"""List every text that users can see, with its place, so that all of them can be reviewed at once.

    python tools/list_texts.py                            path:line, a tab, the text
    python tools/list_texts.py --package ui               only dreambooth/ui; any file or folder of the repository works
    python tools/list_texts.py --package tests --docstrings    docstrings and comments too
    python tools/list_texts.py --grep "epoch|step"     only the texts that match

The code is parsed, not imported, so any Python from 3.10 on works. A text is a string literal, an f-string (with
its expressions in braces) or a concatenation of both. It is listed if it has letters and a space between words, or if
it is passed to a call or keyword that shows it (an exception, a setting, a label, help of an option, a progress phase,
...). A group of settings is listed once per file. Code in strings (conditions, SQL, regular expressions, CSS classes,
keys) is left out. Line breaks and tabs within a text are printed as \\n and \\t.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("dreambooth", "install.py", "launch.py", "preload.py", "scripts", "javascript")

# Calls whose arguments are shown, even if they are one word. A number: only that positional argument.
ALL = None
SHOWING_CALLS: dict[str, tuple[int, ...] | None] = {
    # errors and messages
    "UserError": ALL, "from_problems": ALL, "Cancelled": ALL, "ArgumentTypeError": ALL, "exit": ALL, "SystemExit": ALL,
    "print": ALL, "log": ALL, "_log": ALL, "line": ALL, "message": ALL, "note": ALL, "phase": ALL, "progress": ALL,
    "_progress": ALL, "info": ALL, "warning": ALL, "error": ALL, "exception": ALL,
    # declarations of settings: group, label and help
    "setting": (1, 2, 3),
    # controls of the page
    "HTML": (0,), "Markdown": (0,), "Button": (0,), "Accordion": (0,), "TabItem": (0,), "Tab": (0,), "_button": (0,),
    "button": (0,),
}  # fmt: skip
PASSING_CALLS = {"join", "format", "escape", "capitalize"}  # their arguments are shown if their result is
SHOWING_KEYWORDS = {
    "label", "help", "info", "placeholder", "description", "epilog", "title", "text", "summary", "message", "group",
    "tab", "reason", "button", "caption_text",
}  # fmt: skip

# Calls and keywords that take code, keys, names or parts of file formats.
CODE_CALLS = {
    "debug", "removeprefix", "removesuffix", "startswith", "endswith", "partition", "rpartition", "split", "rsplit",
    "strip", "lstrip", "rstrip", "count", "find", "index", "encode", "decode", "getattr", "setattr", "hasattr", "get",
    "pop", "execute", "executemany", "executescript", "cast", "TypeVar", "import_module", "find_spec", "strftime",
    "strptime", "struct", "pack", "unpack", "eval", "compile", "namedtuple", "NewType", "replace_all",
}  # fmt: skip
CODE_KEYWORDS = {
    "applies", "elem_id", "elem_classes", "key", "encoding", "errors", "mode", "dtype", "metavar", "type", "dest",
    "action", "nargs", "file_list", "aliases", "level", "_js", "js", "name", "suffix", "prefix", "flags", "accept",
}  # fmt: skip
CODE_TEXT = re.compile(
    r"\s*(SELECT|INSERT|CREATE|UPDATE|DELETE|PRAGMA|REPLACE|DROP|ALTER|BEGIN|PRIMARY KEY)\b"  # SQL
    r"|\s*(import \w+|from [\w.]+ import)\b"
    r"|\s*[\w.-]+/[\w.+-]+(;\s*[\w-]+=\S+)?\s*$"  # MIME types
    r"|\s*[a-z-]+=['\"]"  # attributes of a tag
    r"|[a-z-]+: [^;]+; --?[a-z-]+: "  # CSS
    r"|#version: "  # the first line of a tokenizer's merges.txt
)
TAGS = re.compile(r"<style>.*?</style>|</?[a-zA-Z!][^<>]*>?|^[^<>]*=[\"'][^<>]*>|&\w+;")  # also parts of tags
CSS_CLASSES = re.compile(r"\s*[#.]?(db_[\w%-]+\s*)+")
TABLES_WITH_SHOWN_KEYS = re.compile(r"_?(COLUMNS|HEADERS|HEADINGS|LABELS|TITLES)$")

# In these folders a single capitalized word is a text (a button, a heading) rather than a name of code.
PAGE_AND_COMMANDS = ("dreambooth/ui/", "dreambooth/cli/", "scripts/")
CAPITALIZED = re.compile(r"(?!True|False|None)[‹›]?\s*[A-Z][a-z]{2,}\s*[‹›.:…!?]*")
ONLY_FOR_TOOLS = re.compile(r"#\s*(noqa|type:|fmt:|pragma|pyright|ruff|!)")


class Text(NamedTuple):
    """A text and the place where it begins."""

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        text = self.text.replace("\\", "\\\\") if "\n" in self.text or "\t" in self.text else self.text
        text = text.replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
        return f"{self.path}:{self.line}\t{text}"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="List every text that users can see, as path:line, a tab, the text.")
    parser.add_argument("--package", metavar="NAME", help="only this package, or this file or folder of the repository")
    parser.add_argument("--docstrings", action="store_true", help="also list docstrings and comments")
    parser.add_argument("--grep", metavar="REGEX", type=_pattern, help="only texts that match (case is ignored)")
    args = parser.parse_args(argv)
    try:
        paths = files(args.package)
    except FileNotFoundError as error:
        parser.error(str(error))
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure:
        reconfigure(encoding="utf-8", errors="backslashreplace")
    found = (text for path in paths for text in texts(path, args.docstrings))
    with contextlib.suppress(BrokenPipeError):  # the reader of a pipe has exited
        for text in found:
            if not args.grep or args.grep.search(text.text):
                print(text, flush=True)


def files(package: str | None = None) -> list[Path]:
    """The files to read: all with texts for users, or those of one package."""
    if package is None:
        places = [ROOT / source for source in SOURCES]
    else:
        is_file = package.endswith((".py", ".js"))
        part = package if is_file else package.removeprefix("dreambooth.").replace(".", "/")
        candidates = [ROOT / "dreambooth" / part, ROOT / part, ROOT / "dreambooth" / f"{part}.py", ROOT / f"{part}.py"]
        places = [next((place for place in candidates if place.exists()), candidates[0])]
        if not places[0].exists():
            raise FileNotFoundError(f"there is no package, file or folder named {package}")
    found = (sorted(place.rglob("*")) if place.is_dir() else [place] for place in places)
    return [path for paths in found for path in paths if path.suffix in (".py", ".js") and path.is_file()]


def texts(path: Path, docstrings: bool = False) -> list[Text]:
    """The texts of one file in the order of its lines."""
    source = path.read_text(encoding="utf-8")
    name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.as_posix()
    if path.suffix == ".js":
        found = set(_in_javascript(name, source, docstrings))
    else:
        tree = ast.parse(source)
        found = set(_Finder(name, tree).found)
        if docstrings:
            found |= {*_docstrings(name, source, tree), *_comments(name, source)}
    return sorted(found, key=lambda text: (text.line, text.text))


class _Finder:
    """Walks through a module. ``shown``: whether the visited node is where texts are shown."""

    def __init__(self, path: str, tree: ast.Module) -> None:
        self.path = path
        self.found: list[Text] = []
        self.groups: set[str] = set()
        self.single_words = path.startswith(PAGE_AND_COMMANDS)
        self.constants = {
            target.id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        self._visit(tree, shown=False)

    def _visit(self, node: ast.AST, shown: bool) -> None:
        handler = getattr(self, f"_visit_{type(node).__name__.lower()}", None)
        if handler:
            handler(node, shown)
        else:
            self._visit_parts(node, shown and isinstance(node, (ast.List, ast.Tuple, ast.Set, ast.BoolOp, ast.Starred)))

    def _visit_parts(self, node: ast.AST, shown: bool) -> None:
        for part in ast.iter_child_nodes(node):
            self._visit(part, shown)

    # --- recognizing texts

    def _visit_constant(self, node: ast.Constant, shown: bool) -> None:
        if isinstance(node.value, str) and self._is_text(node.value, node.value, shown):
            self.found.append(Text(self.path, node.lineno, node.value))

    def _visit_joinedstr(self, node: ast.JoinedStr, shown: bool) -> None:
        self._visit_pieces(node, shown)

    def _visit_binop(self, node: ast.BinOp, shown: bool) -> None:
        if isinstance(node.op, ast.Add) and any(_is_literal(operand) for operand in _operands(node)):
            self._visit_pieces(node, shown)
        else:
            self._visit_parts(node, shown and isinstance(node.op, (ast.Mod, ast.Mult, ast.Add)))

    def _visit_pieces(self, node: ast.expr, shown: bool) -> None:
        """A text of literals and expressions. The expressions are visited only if the text itself is not listed."""
        text, words = _joined(node)
        if self._is_text(text, words, shown):
            self.found.append(Text(self.path, node.lineno, text))
        else:
            for operand in _operands(node):
                for part in operand.values if isinstance(operand, ast.JoinedStr) else [operand]:
                    if not _is_literal(part):
                        self._visit(part, shown)

    def _visit_formattedvalue(self, node: ast.FormattedValue, shown: bool) -> None:
        self._visit(node.value, shown)  # not its format

    def _is_text(self, text: str, words: str, shown: bool) -> bool:
        """``words``: the text with a placeholder for each expression."""
        words = _without_tags(words)
        if not re.search(r"[^\W\d_]{2}|% \w", words) or CSS_CLASSES.fullmatch(words):
            return False
        if shown:
            return True
        if CODE_TEXT.match(text):
            return False
        if self.single_words and CAPITALIZED.fullmatch(words):
            return True
        return bool(re.search(r"\S\s+\S", words.strip()))

    # --- positions of texts

    def _visit_call(self, node: ast.Call, shown: bool) -> None:
        name = _name(node.func)
        if isinstance(node.func, ast.Attribute):
            self._visit(node.func.value, shown=name == "join")
            if isinstance(node.func.value, ast.Name) and node.func.value.id == "re":
                return
        if name in CODE_CALLS:
            return
        if name == "control":  # the control's class, then its arguments
            name, arguments = _name(node.args[0]) if node.args else "", node.args[1:]
        else:
            arguments = node.args
        places = SHOWING_CALLS.get(name, ())
        for number, argument in enumerate(arguments):
            if name == "setting" and number == 1 and self._is_repeated_group(argument):
                continue
            is_shown = places is ALL or number in (places or ()) or (shown and name in PASSING_CALLS)
            self._visit(self._constant(argument) if is_shown else argument, is_shown)
        for keyword in node.keywords:
            if keyword.arg == "choices":
                self._visit_choices(keyword.value)
            elif keyword.arg not in CODE_KEYWORDS:
                self._visit(keyword.value, keyword.arg in SHOWING_KEYWORDS or places is ALL)

    def _is_repeated_group(self, node: ast.expr) -> bool:
        """Whether this group of settings was listed before: it is repeated in each of their declarations."""
        group = ast.unparse(node)
        repeated = group in self.groups
        self.groups.add(group)
        return repeated

    def _visit_choices(self, node: ast.expr) -> None:
        """Choices are shown, whether they are written here or in a constant of this module."""
        if isinstance(node, ast.Call) and _name(node.func) in ("tuple", "list", "sorted") and node.args:
            node = node.args[0]
        node = self._constant(node)
        for part in ast.walk(ast.Tuple([key for key in node.keys if key]) if isinstance(node, ast.Dict) else node):
            if isinstance(part, ast.Constant):
                self._visit_constant(part, shown=True)

    def _constant(self, node: ast.expr) -> ast.expr:
        """The value of a constant of this module, or the expression itself."""
        return self.constants.get(node.id, node) if isinstance(node, ast.Name) else node

    def _visit_raise(self, node: ast.Raise, shown: bool) -> None:
        if isinstance(node.exc, ast.Call):
            for argument in [*node.exc.args, *(keyword.value for keyword in node.exc.keywords)]:
                self._visit(argument, shown=_name(node.exc.func) not in ("KeyError", "AttributeError", "ImportError"))

    def _visit_ifexp(self, node: ast.IfExp, shown: bool) -> None:
        self._visit(node.test, shown=False)
        self._visit(node.body, shown)
        self._visit(node.orelse, shown)

    def _visit_dict(self, node: ast.Dict, shown: bool) -> None:
        values = [value for value in node.values if _is_literal(value)]
        table = len(values) == len(node.values) and any(" " in _joined(value)[1].strip() for value in values)
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant):
                self._visit(key, shown=False)
                self._visit(value, shown or table or key.value in SHOWING_KEYWORDS)
            else:
                self._visit(value, shown)

    def _visit_assign(self, node: ast.Assign | ast.AnnAssign, shown: bool) -> None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        if names == ["__all__"] or node.value is None:
            return
        headings = any(TABLES_WITH_SHOWN_KEYS.match(name) for name in names)
        if headings and isinstance(node.value, ast.Dict):
            for key in node.value.keys:
                if key is not None:
                    self._visit(key, shown=True)
        self._visit(node.value, shown=headings)

    _visit_annassign = _visit_assign  # without the annotation, which may be a string

    def _visit_expr(self, node: ast.Expr, shown: bool) -> None:
        if not isinstance(node.value, ast.Constant):  # docstrings
            self._visit(node.value, shown)

    def _visit_functiondef(self, node: ast.FunctionDef | ast.AsyncFunctionDef, shown: bool) -> None:
        for part in (*node.decorator_list, *node.args.defaults, *node.args.kw_defaults, *node.body):
            if part is not None:
                self._visit(part, shown=False)

    _visit_asyncfunctiondef = _visit_functiondef

    def _visit_compare(self, node: ast.Compare, shown: bool) -> None:
        for part in (node.left, *node.comparators):
            if isinstance(part, (ast.Call, ast.GeneratorExp)):
                self._visit(part, shown=False)

    def _visit_subscript(self, node: ast.Subscript, shown: bool) -> None:
        self._visit(node.value, shown)  # a table, not its key

    def _visit_match_case(self, node: ast.match_case, shown: bool) -> None:
        for part in node.body:
            self._visit(part, shown=False)


def _operands(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [*_operands(node.left), *_operands(node.right)]
    return [node]


def _is_literal(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _joined(node: ast.expr) -> tuple[str, str]:
    """The text with its expressions in braces, and with a placeholder for each of them."""
    pieces: list[tuple[str, str]] = []
    for operand in _operands(node):
        for part in operand.values if isinstance(operand, ast.JoinedStr) else [operand]:
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                pieces.append((part.value, part.value))
            elif isinstance(part, ast.FormattedValue):
                pieces.append((_placeholder(part), _words(part.value)))
            else:
                pieces.append((f"{{{ast.unparse(part)}}}", _words(part)))
    return "".join(text for text, _ in pieces), "".join(words for _, words in pieces)


def _words(node: ast.expr) -> str:
    """Placeholder for an expression; a choice between literals, such as a plural, counts as words."""
    choices = [node.body, node.orelse] if isinstance(node, ast.IfExp) else []
    return "".join(_joined(choice)[1] for choice in choices if _is_literal(choice)) or "%"


def _placeholder(part: ast.FormattedValue) -> str:
    conversion = f"!{chr(part.conversion)}" if part.conversion > 0 else ""
    spec = f":{_joined(part.format_spec)[0]}" if part.format_spec else ""
    return f"{{{ast.unparse(part.value)}{conversion}{spec}}}"


def _without_tags(words: str) -> str:
    """The text of HTML, with the attributes that users see or hear."""
    seen = re.findall(r"""\b(?:title|alt|placeholder|aria-label)=(?:"([^"]*)|'([^']*))""", words)
    return " ".join([TAGS.sub(" ", words), *map("".join, seen)])


def _name(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _docstrings(path: str, source: str, tree: ast.Module) -> Iterator[Text]:
    """Docstrings, line by line."""
    lines = source.splitlines()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            for number in range(node.lineno, (node.end_lineno or node.lineno) + 1):
                text = lines[number - 1].strip()
                if re.search(r"[^\W\d_]", text):
                    yield Text(path, number, text)


def _comments(path: str, source: str) -> Iterator[Text]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not ONLY_FOR_TOOLS.match(token.string):
            yield Text(path, token.start[0], token.string)


_JAVASCRIPT = re.compile(
    r"//[^\n]*|/\*.*?\*/"
    r'|"(?:\\.|[^"\\\n])*"|' + r"'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`",
    re.DOTALL,
)
_TAKES_CODE = re.compile(r"(querySelector(All)?|closest|matches|getElementById|[=!]==?|\.is)\s*(\?\.)?\(?\s*$")


def _in_javascript(path: str, source: str, comments: bool) -> Iterator[Text]:
    """Quoted strings with a space or a capital letter, except selectors and compared values."""
    for match in _JAVASCRIPT.finditer(source):
        line = source.count("\n", 0, match.start()) + 1
        if match[0].startswith(("//", "/*")):
            if comments:
                yield Text(path, line, match[0])
            continue
        text = match[0][1:-1]
        words = re.sub(r"\$\{[^{}]*\}", "%", text)
        if _TAKES_CODE.search(source, match.start() - min(40, match.start()), match.start()) or text[:1] in ("#", "."):
            continue
        if re.search(r"[a-zA-Z]", words) and (re.search(r"\S +\S", words) or CAPITALIZED.fullmatch(words)):
            yield Text(path, line, text)


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text, re.IGNORECASE)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text} is not a regular expression ({error})") from None


if __name__ == "__main__":
    main()
