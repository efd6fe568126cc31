"""Model files to modules and back. Reading never executes a pickle; writing needs memory for one tensor at a time.

reading.py            open a file: names, shapes, one tensor at a time    (pickles.py, torch_files.py: torch formats)
writing.py            hashing, NaN checks and casts of tensors that are written
stable_diffusion.py   common to all families; sd1.py, sd2.py, sdxl.py: the specifics of each
layout.py             tensor names in single files and in modules         (ldm_names.py, clip_names.py: the tables)
family.py             the family of a file, or a description of what else it is
recognition.py        family and prediction type of a source, also where the tensors are ambiguous
sources.py            sources of Create: single files and folders         (folder_source.py, hub.py)
extract.py            Create: a source into ``working`` and ``source``    (tokenizer.py, manifest.py)
modules.py            ``working`` into modules, weights back into it
tokens.py             prompts to token ids                                (emphasis.py: attention weights of brackets)
adapters/             the math of LoRA, LoHa, LoKr, DoRA and IA3          (lora.py: their files)
lora_tools.py         merging and resizing LoRAs                          (lora_extract.py: difference of checkpoints)
single_file.py        Generate Ckpt: ``working`` into the source's layout
inspection.py         kind, metadata and differences of any model file
verify.py             checks of a written file after reading it back
"""
