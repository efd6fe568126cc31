"""An image folder as in kohya's guides, and dataset.toml files for it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from PIL import Image

XFORMERS = "xformers" if importlib.util.find_spec("xformers") else "default"  # what xformers = true becomes

# (width, height) of the instance images and of the regularization images
INSTANCE_SIZES = ((512, 512), (768, 1024), (1024, 768), (640, 961), (1920, 1080), (601, 797), (533, 711), (400, 300),
           (1000, 1003), (1500, 400))  # fmt: skip
REGULARIZATION_SIZES = ((512, 512), (511, 768), (300, 200), (900, 1600), (2000, 700))
TAGS = ("1girl", "red hat", "smile", "from above", "grey floor", "blue eyes")


def make(folder: Path) -> Path:
    """``10_sls 1girl`` with captions and ``1_1girl`` without, in ``folder``."""
    for name, sizes in (("10_sls 1girl", INSTANCE_SIZES), ("1_1girl", REGULARIZATION_SIZES)):
        (folder / name).mkdir(parents=True)
        for number, size in enumerate(sizes):
            path = folder / name / f"{number:02d}.png"
            Image.new("RGB", size, (20 * number, 90, len(name))).save(path, compress_level=1)
            if sizes is INSTANCE_SIZES:
                path.with_suffix(".txt").write_text(caption(number) + "\n")
    return folder


def caption(number: int) -> str:
    return ", ".join(("sls", *TAGS[: 1 + number % 6]))


def toml(**dataset: object) -> str:
    """The guides' dataset.toml, with other values for the dataset."""
    values = {"resolution": 512, "batch_size": 1, "enable_bucket": True, "min_bucket_reso": 256,
              "max_bucket_reso": 1024, "bucket_reso_steps": 64, "bucket_no_upscale": False} | dataset  # fmt: skip
    rows = "\n".join(f"{key} = {str(value).lower()}" for key, value in values.items())
    return f"""
[general]
shuffle_caption = true
keep_tokens = 1
caption_extension = ".txt"

[[datasets]]
{rows}

  [[datasets.subsets]]
  image_dir = "10_sls 1girl"
  num_repeats = 20
  class_tokens = "sls 1girl"

  [[datasets.subsets]]
  is_reg = true
  image_dir = "1_1girl"
  class_tokens = "1girl"
"""


DATASETS = {
    "512": {},
    "768 in batches of 2": {"resolution": 768, "batch_size": 2},
    "a pair, not enlarged, in batches of 4": {"resolution": [512, 768], "batch_size": 4, "bucket_no_upscale": True},
    "one size": {"resolution": [448, 640], "batch_size": 4, "enable_bucket": False},
}
