"""Paths as people paste them: cleaned where that is certain, used as given where the file exists that way."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreambooth import paths
from dreambooth.checkpoints.hub import hub_id
from dreambooth.errors import UserError
from dreambooth.paths import clean_path, clean_text

PASTED = {
    "plain": "{path}",
    "Explorer": '"{path}"',
    "single quotes": "'{path}'",
    "curly quotes": "“{path}”",
    "German quotes": "„{path}“",
    "from a list": '"{path}",',
    "spaces": "  {path} \r\n",
    "security dialog": "\u202a{path}",
    "byte order mark": "\ufeff{path}",
    "several layers": " '\"{path}\"' ",
    "cmd.exe": '{path}"',
    "file URL": "file://{path}",
    "file URL with a host": "FILE://localhost{path}",
    "file URL in quotes": '"file:{path}"',
    "variable": "$PHOTOS_OF_A_TEST/my photos",
    "variable in braces": "${{PHOTOS_OF_A_TEST}}/my photos",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PHOTOS_OF_A_TEST", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my photos"
    path.mkdir()
    return path


@pytest.mark.parametrize("pasted", PASTED.values(), ids=PASTED.keys())
def test_what_pasting_adds_is_removed(pasted: str, folder: Path) -> None:
    assert clean_path(pasted.format(path=folder)) == folder
    new = folder.with_name("new")  # does not exist yet, as the folder of results
    assert clean_path(pasted.replace("my photos", "new").format(path=new)) == new


def test_escapes_and_other_separators_are_understood_where_the_file_exists(folder: Path) -> None:
    (folder / "a+b%").mkdir()
    name = "a+b%"
    escaped = [f"{folder}/{name}".replace(" ", "\\ "), f"{folder}/a%2Bb%25", "my photos\\a+b%", "my%20photos/a+b%"]
    for text in escaped:
        assert clean_path(text).resolve() == folder / "a+b%"
    assert str(clean_path("new\\ folder")) == "new\\ folder"
    assert str(clean_path("50%20off")) == "50%20off"


@pytest.mark.parametrize(
    "name", ["'quoted'", '"quoted"', " spaces ", "$HOME", "a\\ b", "100%25", "“x”", "https:", "\u202ax"]
)
def test_an_existing_name_is_used_as_given(name: str, folder: Path) -> None:
    (folder / name).mkdir()
    assert clean_path(folder / name) == folder / name
    assert clean_path(name, folder) == folder / name


def test_home_and_base(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    assert clean_path("'~/cats'") == folder / "cats"
    assert clean_text("'~/cats'") == "~/cats"
    assert clean_path("~nobody-of-this-name/cats") == Path("~nobody-of-this-name/cats")
    assert clean_path('"my photos"', folder.parent) == folder
    assert clean_path("file:///cats", folder) == Path("/cats")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"C:\\Users\\me\\my photos"', "C:\\Users\\me\\my photos"),
        ("file:///C:/Users/me/my%20photos", "C:/Users/me/my photos"),
        ("file:///D|/photos", "D:/photos"),
        ("file:///c%3A/photos", "c:/photos"),
        ("file://server/share/a%23b", "//server/share/a#b"),
        ("\\\\?\\C:\\a\\b", "C:\\a\\b"),
        ("\\\\?\\UNC\\server\\share", "\\\\server\\share"),
        ('C:\\my folder"', "C:\\my folder"),
    ],
)
def test_windows_paths(text: str, expected: str, tmp_path: Path) -> None:
    assert clean_text(text) == expected
    assert str(clean_path(text, tmp_path)) == expected  # nobody recognizes it joined to a folder of this machine


def test_spaces_at_the_end_of_an_existing_path_are_removed_in_windows(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "_IS_WINDOWS", True)
    (folder / "a ").mkdir()  # Windows finds "a" under this name, but not the files in it
    assert clean_text(f"{folder}/a ") == f"{folder}/a"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://civitai.com/api/download/models/128713", "Download the file"),
        ('"http://example.com/a.safetensors"', "Download the file"),
        ("civitai.com/models/4384", "Download the file"),
        ("https://huggingface.co/org/name/tree/main", "source of a model, org/name works"),
        ("https://huggingface.co/org/name/resolve/main/a.safetensors?download=true", "org/name/a.safetensors works"),
        ('"C:\\a" "C:\\b"', "several paths"),
        ("'/a'\n'/b'", "several paths"),
        ('""', "no path"),
    ],
)
def test_what_is_no_path_is_refused(text: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        clean_path(text)
    assert not hub_id(text)
