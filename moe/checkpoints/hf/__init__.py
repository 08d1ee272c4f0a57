"""Published checkpoints: `config.json` and safetensors, in and out.

A family of models is one table of config fields and one of tensors
(`families`); both are read in either direction. `read` brings tensors onto a
mesh, `write` writes them, `files` and `quantized` know the formats.
"""
