"""Training data: concepts to examples, buckets and batches.

sources.py           the images of all concepts, each read once with its caption
mask_folder.py       masks in a folder of their own
image_warnings.py    issues of single images
planning.py          concepts to a plan, with all problems reported at once
plan.py              the examples of a run and the batches of its epochs, as plain values
variation.py         caption and flip augmentation, as a function of (seed, epoch, image)
class_images.py      class images for prior preservation, and regularization images
validation_split.py  images that are validated on instead of trained
table.py             the plan as a table
pixels.py            an example's image as a tensor              (torch)
cache.py             latents and text embeddings kept on disk    (torch)
"""
