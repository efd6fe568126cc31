"""Model files to modules and back. Reading never executes a pickle; writing goes in a stream.

reading.py        open a file: names, shapes, one tensor at a time      (pickles.py, torch_files.py: torch's own files)
writing.py        safetensors in a stream
family.py         which family a file is of, or what it is instead
sd1.py            all that is particular to Stable Diffusion 1.x        (ldm_names.py: original and diffusers' names)
extract.py        Create: a source into ``working`` and ``source``      (folder_source.py, tokenizer.py, manifest.py)
modules.py        ``working`` into modules, weights back into it
text.py           prompts to text embeddings
lora.py           kohya's LoRA files
single_file.py    Generate Ckpt: ``working`` into the source's layout
verify.py         what was written, read back and compared
"""
