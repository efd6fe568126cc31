"""Image preparation: rename, resize, crop, mirror and convert a folder of images."""
