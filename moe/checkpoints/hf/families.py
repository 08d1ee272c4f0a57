"""All families that are known; a module of each registers them."""

from moe.checkpoints.hf import deepseek, gpt_oss, granite, mixtral, qwen
from moe.checkpoints.hf.family import FAMILIES, Family, family_of

__all__ = ['FAMILIES', 'Family', 'deepseek', 'family_of', 'gpt_oss']
__all__ += ['granite', 'mixtral', 'qwen']
