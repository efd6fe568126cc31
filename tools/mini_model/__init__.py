"""Build of the embedded model: images, VAE, UNet, classifier, conversion and evaluation."""
