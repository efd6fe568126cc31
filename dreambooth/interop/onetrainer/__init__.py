"""Configurations of OneTrainer: config.json, published presets, concepts.json.

config_file.py  a configuration of any version under today's names, with OneTrainer's defaults
concepts.py     concepts: folders, captions, repeats, augmentation
training.py     a whole configuration, with its images
optimizer.py    optimizer, learning rates and schedule
network.py      adapters
objective.py    precision, loss, noise, masks, prompts, moving average
intervals.py    trained parts, saves, previews, backups, validation
samples.py      sample prompts
keys.py         keys without an equivalent setting
"""
