"""Training runs: preflight, the run itself, previews, class images, presets."""
