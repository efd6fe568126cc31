"""Configurations of ai-toolkit, in YAML or JSON.

job_file.py   a job: its training process, and the values in it with ai-toolkit's defaults
training.py   a whole job: images, loss, precision
datasets.py   datasets: folders, captions, trigger words, repeats, masks
network.py    adapters
optimizer.py  optimizer, learning rate, schedule, number of steps
samples.py    saves and samples
keys.py       keys without an equivalent setting
"""
