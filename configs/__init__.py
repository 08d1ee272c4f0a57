"""Configs: files with get_config(variant)."""
