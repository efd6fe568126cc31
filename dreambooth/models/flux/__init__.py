"""FLUX's VAE, which several families have in common."""
