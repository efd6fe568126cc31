"""The workshop of the embedded model: pictures, VAE, UNet, checker, conversion and measurement."""
