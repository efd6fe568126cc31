"""What a file in an image folder is, by its name, or by its first bytes where the name does not tell."""

from __future__ import annotations

import os
import re
import stat
from enum import Enum

# Formats that are decoded, by Pillow's name, and their file extensions. A closed list, because some of Pillow's readers
# (EPS) start other programs. MPO is what many phones write into a .jpg.
_JPEG = (".jpg", ".jpeg", ".jfif", ".jpe", ".jif", ".jfi", ".pjpeg", ".pjp", ".mpo")
FORMATS = {
    "PNG": (".png", ".apng"), "JPEG": _JPEG, "MPO": _JPEG, "WEBP": (".webp",), "BMP": (".bmp", ".dib"),
    "DIB": (".dib",), "AVIF": (".avif", ".avifs"), "GIF": (".gif",), "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}  # fmt: skip
IMAGE_EXTENSIONS = frozenset(extension for extensions in FORMATS.values() for extension in extensions)

CAPTION_EXTENSIONS = (".txt", ".caption")  # the default of a concept

_CONVERT = "is in an unsupported format: convert it to PNG or JPEG."
_RAW = "is a raw photo: export it as JPEG or PNG."
_CALLED_CAPTION = "is an image that is called like a caption: rename it to .jpg or .png."
_EXPORT = "is a file of a paint program: export it as PNG."
_VIDEO = "is a video: save frames of it as PNG or JPEG, or remove it from the folder."
_ARCHIVE = "is an archive: unpack it into the folder, or remove it."
_DOCUMENT = "is a document: save its images as PNG or JPEG, or remove it from the folder."
_SHORTCUT = "is a shortcut: copy the image itself into the folder."
_UNFINISHED = "is an unfinished download: complete it, or remove it."
_PACKED = "is a packed dataset: export its images as files, with their captions in a metadata.jsonl (file_name, text)."
_BACKUP = "is a backup copy: rename it to use it, or remove it."

# Images that are not supported, and the advice.
_UNSUPPORTED = {
    _CONVERT: ".heic .heif .hif .jxl .jp2 .j2k .jpf .jpx .j2c .jpc .jxr .wdp .svg .svgz .exr .hdr .tga .pcx .dds .ico "
    ".icns .cur .sgi .qoi .flif .bpg .eps .ai .wmf .emf .pfm .xbm .xpm .pict .avci",
    _RAW: ".dng .cr2 .cr3 .crw .nef .nrw .arw .sr2 .srf .orf .raf .rw2 .pef .srw .x3f .rwl .3fr .iiq .erf .kdc .mrw "
    ".mef .mos .dcr .raw",
    _CALLED_CAPTION: " ".join(CAPTION_EXTENSIONS),
    _EXPORT: ".psd .psb .xcf .kra .ora .clip .sai .sai2 .mdp .afphoto .afdesign .pdn .cdr .procreate .pxd",
}
# Files that people took for images, or that hold images.
_NOT_IMAGES = {
    _VIDEO: ".mp4 .mov .avi .mkv .webm .m4v .wmv .flv .mpg .mpeg .3gp .mts .m2ts .ogv .gifv",
    _ARCHIVE: ".zip .rar .7z .tar .gz .tgz .bz2 .xz .zst .cbz .cbr .lzh",
    _DOCUMENT: ".pdf .doc .docx .ppt .pptx .odt .odp .epub .htm .html .mht .mhtml",
    _SHORTCUT: ".lnk .url .webloc .desktop",
    _UNFINISHED: ".part .crdownload .partial .download .opdownload .aria2",
    _PACKED: ".parquet .arrow",
    _BACKUP: ".bak .orig .old",
}
_ADVICE = {ending: text for text, endings in {**_UNSUPPORTED, **_NOT_IMAGES}.items() for ending in endings.split()}
UNSUPPORTED_EXTENSIONS = frozenset(ending for endings in _UNSUPPORTED.values() for ending in endings.split())
# Files of trainers, taggers and people, which are never images. What is in none of these lists is looked into.
_SIDE = (
    ".npz .npy .safetensors .pt .pth .ckpt .bin .onnx .json .jsonl .csv .tsv .toml .yaml .yml .xml .ini .cfg .md .log "
    ".db .sqlite .py .bat .sh .ps1 .exe .js .css .xmp .thm .aae .mp3 .wav .m4a .xlsx .xls .torrent "
    ".ttf .otf .lock .tags .cap .prompt"
)
_SIDE_EXTENSIONS = frozenset(_SIDE.split())
_NOT_CAPTIONS = re.compile(r"(readme|licen[cs]e|requirements|metadata|classes|changelog)\b.*", re.IGNORECASE)
# Files of cameras, NAS systems, archives and operating systems among images.
_SYSTEM_FILES = frozenset({"@eadir", "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin"})

_HEAD = 64  # bytes that tell a format
# Of images, supported or not: decoding tells which. Offset and magic bytes.
_MAGIC = (
    (0, b"\x89PNG\r\n\x1a\n"), (0, b"\xff\xd8\xff"), (0, b"GIF87a"), (0, b"GIF89a"), (0, b"II*\0"), (0, b"MM\0*"),
    (8, b"WEBP"), (4, b"ftypavi"), (4, b"ftyphei"), (4, b"ftyphev"), (4, b"ftypmif1"), (4, b"JXL "), (4, b"jP  "),
    (0, b"\xff\x0a"), (0, b"8BPS"),
)  # fmt: skip
_PPM = re.compile(rb"P[1-6]\s+(?:#[^\n]*\n\s*)*\d+\s+\d")


class FileKind(Enum):
    """What a file is, as far as its name tells."""

    IMAGE = "image"
    UNSUPPORTED = "unsupported"  # an image in an unsupported format
    NOT_IMAGE = "not image"  # a video, archive, shortcut...: someone may expect it to be trained
    CAPTION = "caption"
    SIDE = "side"  # a file of a program
    HIDDEN = "hidden"  # a hidden or system file
    UNKNOWN = "unknown"


def kind_of(name: str) -> FileKind:
    """The kind of a file by its name."""
    extension = os.path.splitext(name)[1].lower()
    if is_hidden(name):
        return FileKind.HIDDEN
    if extension in IMAGE_EXTENSIONS:
        return FileKind.IMAGE
    if extension in CAPTION_EXTENSIONS:
        return FileKind.SIDE if _NOT_CAPTIONS.fullmatch(name) else FileKind.CAPTION
    if extension in UNSUPPORTED_EXTENSIONS:
        return FileKind.UNSUPPORTED
    if extension in _ADVICE or name.endswith("~"):
        return FileKind.NOT_IMAGE
    return FileKind.SIDE if extension in _SIDE_EXTENSIONS else FileKind.UNKNOWN


def advice(name: str) -> str:
    """Why a file that is no usable image is not trained, and what to do."""
    return _ADVICE.get(os.path.splitext(name)[1].lower(), _BACKUP if name.endswith("~") else _CONVERT)


def is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _SYSTEM_FILES


def has_image_content(path: str | os.PathLike[str]) -> bool:
    """Whether the first bytes are those of an image. False for what can't be read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for its other end
            return False
        with open(path, "rb", buffering=0) as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    is_bitmap = head.startswith(b"BM") and head[6:10] == bytes(4) and len(head) > 26
    return is_bitmap or bool(_PPM.match(head)) or any(head.startswith(magic, offset) for offset, magic in _MAGIC)
