"""Generation by transformers: Mixtral with random weights, on the CPU."""

import functools
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.timing import Call


def build(
    config: Any, hidden: int, experts: str, tokens: np.ndarray, count: int
) -> Call:
    """Returns a call that generates greedily, with a cache.

    Args:
      config: config of a model, an `LMConfig`.
      hidden: width of the experts.
      experts: name of the implementation of the experts.
      tokens: token ids of the prompts, [B, P].
      count: tokens to generate.
    """
    c = config
    sizes = (
        c.vocab_size,
        c.d_model,
        hidden,
        c.num_layers,
        c.num_heads,
        c.num_kv_heads,
        c.moe.num_experts,
        c.moe.experts_per_token,
    )
    model = _model(sizes)
    ids = torch.from_numpy(tokens.astype(np.int64))

    def call():
        model.set_experts_implementation(experts)
        with torch.no_grad():
            made = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=count,
                min_new_tokens=count,
                do_sample=False,
                pad_token_id=0,
            )
        return made[:, ids.shape[1] :].numpy()

    return call


@functools.cache
def _model(sizes: tuple[int, ...]) -> Any:
    """Makes the model once for all cases, as its parameters are large."""
    vocabulary, width, hidden, layers, heads, kv_heads, experts, k = sizes
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        num_local_experts=experts,
        num_experts_per_tok=k,
        max_position_embeddings=1024,
    )
    return transformers.MixtralForCausalLM(config).eval()
