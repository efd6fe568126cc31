"""The embedded model: a small Stable Diffusion 1.x, a subject to teach it, and a picture checker."""

from pathlib import Path

FOLDER = Path(__file__).parent
MODEL = FOLDER / "mini-sd.safetensors"
CONCEPTS = FOLDER / "concepts.json"
SUBJECT = FOLDER / "subject"
