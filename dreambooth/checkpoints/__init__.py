"""Model files to modules and back. Reading never executes a pickle; writing needs memory for one tensor at a time.

reading.py            open a file: names, shapes, one tensor at a time    (pickles.py, torch_files.py: torch formats)
writing.py            hashing, NaN checks and casts of tensors that are written
recognition.py        family and prediction type of a source, also where the tensors are ambiguous
sources.py            sources of Create: single files and folders         (folder_source.py, hub.py)
extract.py            Create: a source into ``working`` and ``source``    (manifest.py)
modules.py            ``working`` into modules, weights back into it
adapters/             the math of LoRA, LoHa, LoKr, DoRA and IA3          (lora_file.py: their files)
lora.py               adapters matched to a model's weights, and merged
lora_tools.py         merging and resizing LoRAs                          (lora_extract.py: difference of checkpoints)
single_file.py        Generate Ckpt: ``working`` into the source's layout
inspection.py         kind, metadata and differences of any model file
verify.py             checks of a written file after reading it back
"""
