"""Configurations of kohya's sd-scripts: import and export.

toml_file.py         TOML files, with line numbers for messages
import_report.py     ImportReport: concepts, settings and messages collected during an import
folders.py           repeats and class tokens in folder names (10_sls 1girl)
data_dirs.py         train_data_dir and reg_data_dir
keys.py              the keys of a dataset configuration
values.py            values of a dataset configuration, by key and type
subsets.py           dataset.toml: [general], [[datasets]], [[datasets.subsets]]
sizes.py             resolution and buckets
masks.py             masked loss
training_config.py   training parameters (--config_file), and the dataset that they name
network.py           network type, ranks, dropout, and the LoRA to start from
optimizer.py         optimizer and optimizer_args
schedule.py          learning rate schedule
parameters.py        learning rates, length, saving, validation and samples of a training
unsupported_keys.py  training parameters without an equivalent setting
differences.py       image and caption files that sd-scripts train differently
export.py            concepts and settings as a dataset.toml
"""
