"""The language model's training step in PyTorch.

B sequences, S positions, D width, H heads, h head width, V vocabulary.
"""

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.timing import Call
from benchmarks.torch_layers import loop_over_experts, route, swiglu


def build(name: str, config: Any, tokens: np.ndarray) -> Call:
    """Returns a call that makes one step: gradient, clipping, AdamW.

    Args:
      name: name of the case, see `benchmarks.step.PEERS`.
      config: config of the language model, an `LMConfig`.
      tokens: token ids [B, S + 1].
    """
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    dtype = getattr(torch, config.dtype)
    model: nn.Module
    if name.startswith('transformers'):
        model = _mixtral(config)
    else:
        model = _LM(config, experts=0 if 'dense' in name else _experts(config))
    model = model.to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), 3e-3, (0.9, 0.95), weight_decay=0.1, fused=True
    )
    batch = torch.from_numpy(tokens).long().to(device)

    def call():
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            loss = model(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()  # waits

    return call


def _experts(config) -> int:
    return config.moe.num_experts


class _Attention(nn.Module):
    """Causal attention with rotary positions."""

    def __init__(self, config):
        super().__init__()
        self.heads, width = config.num_heads, config.d_model
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.theta = config.rope.theta

    def forward(self, x):
        count, length, width = x.shape
        shape = (count, length, 3, self.heads, width // self.heads)
        query, key, value = self.qkv(x).reshape(shape).permute(2, 0, 3, 1, 4)
        half = shape[-1] // 2
        steps = torch.arange(half, device=x.device) / half
        position = torch.arange(length, device=x.device)
        angle = position[:, None] * self.theta**-steps
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        out = functional.scaled_dot_product_attention(
            _rotated(query, cos, sin), _rotated(key, cos, sin), value,
            is_causal=True,
        )  # fmt: skip
        return self.out(out.transpose(1, 2).reshape(x.shape))


def _rotated(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class _FeedForward(nn.Module):
    """A gated network, or E of them, of which a token takes K."""

    def __init__(self, width: int, hidden: int, experts: int, k: int):
        super().__init__()
        lead = (experts,) if experts else ()
        make = lambda a, b: nn.Parameter(torch.randn(*lead, a, b) / a**0.5)
        self.gate, self.up = make(width, hidden), make(width, hidden)
        self.down = make(hidden, width)
        self.k = k
        if experts:
            self.router = nn.Parameter(torch.randn(width, experts) / width**0.5)

    def forward(self, x):
        """Returns the outputs, the balance loss and the router z-loss."""
        if self.gate.ndim == 2:
            return swiglu(x, self.gate, self.up, self.down), 0.0
        flat = x.reshape(-1, x.shape[-1])
        logits = flat.float() @ self.router
        gates, chosen = route(logits, self.k)
        params = {'gate': self.gate, 'up': self.up, 'down': self.down}
        if torch.is_autocast_enabled(x.device.type):
            kind = torch.get_autocast_dtype(x.device.type)
            flat = flat.to(kind)
            params = {name: w.to(kind) for name, w in params.items()}
        y = loop_over_experts(flat, params, gates, chosen).reshape(x.shape)
        count = logits.shape[1]
        load = torch.bincount(chosen.reshape(-1), minlength=count)
        share = load / chosen.numel()
        balance = count * (share * logits.softmax(-1).mean(0)).sum()
        z = logits.logsumexp(-1).square().mean()
        return y, 0.01 * balance + 0.001 * z


class _Block(nn.Module):
    """Attention and a feed-forward network, both residual."""

    def __init__(self, config, experts: int):
        super().__init__()
        width = config.d_model
        self.norms = nn.ModuleList(
            nn.RMSNorm(width, config.norm_epsilon) for _ in range(2)
        )
        self.attention = _Attention(config)
        section = config.moe.experts if experts else config.dense
        k = round(config.moe.experts_per_token) if experts else 0
        hidden = section.keywords['hidden']
        self.network = _FeedForward(width, hidden, experts, k)

    def forward(self, x):
        x = x + self.attention(self.norms[0](x))
        y, loss = self.network(self.norms[1](x))
        return x + y, loss


class _LM(nn.Module):
    """The language model of `moe.workloads.lm`; returns the objective."""

    def __init__(self, config, experts: int):
        super().__init__()
        width = config.d_model
        self.embedding = nn.Embedding(config.vocab_size, width)
        self.blocks = nn.ModuleList(
            _Block(config, experts) for _ in range(config.num_layers)
        )
        self.norm = nn.RMSNorm(width, config.norm_epsilon)
        self.head = nn.Linear(width, config.vocab_size, bias=False)

    def forward(self, tokens):
        x, auxiliary = self.embedding(tokens[:, :-1]), 0.0
        for block in self.blocks:
            x, loss = block(x)
            auxiliary = auxiliary + loss
        logits = self.head(self.norm(x)).float()
        losses = functional.cross_entropy(
            logits.flatten(0, 1), tokens[:, 1:].flatten()
        )
        return losses + auxiliary / len(self.blocks)


def _mixtral(config) -> nn.Module:
    """Mixtral of transformers in the same sizes, with its balance loss."""
    import transformers

    model = transformers.MixtralForCausalLM(
        transformers.MixtralConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.d_model,
            intermediate_size=config.moe.experts.keywords['hidden'],
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            num_local_experts=config.moe.num_experts,
            num_experts_per_tok=round(config.moe.experts_per_token),
            router_aux_loss_coef=0.01,
            output_router_logits=True,
            use_cache=False,
            bos_token_id=0,
            eos_token_id=0,
            attn_implementation='sdpa',
            experts_implementation='grouped_mm',
        )
    )

    class Objective(nn.Module):
        """Returns the loss of the model."""

        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, tokens):
            inputs, targets = tokens[:, :-1], tokens[:, 1:].contiguous()
            return self.model(inputs, shift_labels=targets, labels=targets).loss

    return Objective()
