"""DreamBooth training for Stable Diffusion, inside a WebUI, alone, or headless. See ARCHITECTURE.md."""

__version__ = "0.1.0"
