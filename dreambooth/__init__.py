"""DreamBooth and LoRA training for Stable Diffusion: WebUI extension, standalone page, command line."""

__version__ = "0.1.0"
