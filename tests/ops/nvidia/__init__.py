"""Grouped products on GPUs of NVIDIA's, as far as a CPU shows them."""
