"""The same mixture layer in PyTorch: imported only where that is installed.

T tokens, D width, F hidden width, E experts, K choices a token.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.problem import Problem, weights
from benchmarks.timing import Call

Tensors = dict[str, Any]


def build(name: str, problem: Problem) -> Call:
    """Returns the call of a case: loss, gradients of parameters and tokens.

    Args:
      name: one of `LAYERS`.
      problem: the arrays, whose memory the tensors share.
    """
    setting = problem.setting
    source: Tensors = problem.params
    if 'dense' in name:
        source = problem.dense_params
    params = {
        key: _shared(value).requires_grad_()
        for key, value in {**source, **source.get('experts', {})}.items()
        if key != 'experts'
    }
    x = _shared(problem.x).requires_grad_()
    layer, params = LAYERS[name](setting, params)
    leaves = [*params.values(), x]

    def call():
        for _ in range(problem.repeats):
            loss = layer(params, x).float().square().mean()
            *grads, dx = torch.autograd.grad(loss, leaves)
        if x.is_cuda:
            torch.cuda.synchronize()
        return loss.detach(), (grads, dx)

    return call


def _shared(array) -> torch.Tensor:
    return torch.utils.dlpack.from_dlpack(array)


def route(logits: torch.Tensor, k: int):
    """Returns the renormalised gates of the K likeliest experts, and these.

    Args:
      logits: logits of the router [T, E], float32.
      k: K.
    """
    gates, chosen = torch.topk(torch.softmax(logits, dim=-1), k)
    return gates / gates.sum(dim=-1, keepdim=True), chosen


def loop_over_experts(
    x: torch.Tensor, params: Tensors, gates: torch.Tensor, chosen: torch.Tensor
) -> torch.Tensor:
    """Returns what the experts return, one expert after another.

    Rows are sorted by expert, so that each product reads one slice of them.

    Args:
      x: tokens [T, D].
      params: `gate` and `up` [E, D, F], `down` [E, F, D].
      gates: weights [T, K].
      chosen: experts [T, K].
    """
    flat = chosen.reshape(-1)
    order = torch.argsort(flat, stable=True)
    token = order // chosen.shape[1]
    # Unbound, so that each gradient is written once.
    names = ('gate', 'up', 'down')
    matrices = zip(*(params[name].unbind() for name in names), strict=True)
    counts = torch.bincount(flat, minlength=len(params['up'])).tolist()
    parts = [
        swiglu(rows, gate, up, down)
        for rows, (gate, up, down) in zip(
            x[token].split(counts), matrices, strict=True
        )
    ]
    weight = gates.reshape(-1)[order, None].to(x.dtype)
    out = torch.cat(parts) * weight
    return torch.zeros_like(x).index_add(0, token, out)


def swiglu(x, gate, up, down) -> torch.Tensor:
    """Returns `(silu(x W_gate) * x W_up) W_down`."""
    return (torch.nn.functional.silu(x @ gate) * (x @ up)) @ down


def _dense(setting, params):
    return lambda p, x: swiglu(x, p['gate'], p['up'], p['down']), params


def _loop(setting, params):
    def layer(p, x):
        gates, chosen = route(x.float() @ p['router'], setting.k)
        return loop_over_experts(x, p, gates, chosen)

    return layer, params


@functools.lru_cache(maxsize=1)
def _fused(num_experts: int, width: int, hidden: int, dtype: str):
    """The matrices as transformers has them, shared by all loads."""
    shared = weights(num_experts, width, hidden, dtype)
    gate, up, down = (
        _shared(shared[name]).mT for name in ('gate', 'up', 'down')
    )
    return (
        torch.cat([gate, up], dim=1).requires_grad_(),
        down.contiguous().requires_grad_(),
    )


def _transformers(setting, params):
    """Mixtral's block of transformers, with `grouped_mm`."""
    from transformers.models.mixtral import modeling_mixtral as mixtral

    config = mixtral.MixtralConfig(
        hidden_size=setting.width,
        intermediate_size=setting.hidden,
        num_local_experts=setting.num_experts,
        num_experts_per_tok=setting.k,
    )
    config._experts_implementation = 'grouped_mm'
    with torch.device('meta'):
        block = mixtral.MixtralSparseMoeBlock(config)
    gate_up, down = _fused(
        setting.num_experts, setting.width, setting.hidden, setting.dtype
    )
    router = params['router'].detach().T.to(gate_up.dtype).contiguous()
    params = {
        'gate.weight': router.requires_grad_(),
        'experts.gate_up_proj': gate_up,
        'experts.down_proj': down,
    }

    def layer(p, x):
        return torch.func.functional_call(block, p, (x[None],))[0]

    return layer, params


class _Experts(torch.nn.Module):
    """Experts [E, N, D] -> [E, N, D] over given matrices."""

    def __init__(self, params):
        super().__init__()
        self.gate, self.up, self.down = (
            torch.nn.Parameter(params[name]) for name in ('gate', 'up', 'down')
        )

    def forward(self, x):
        return swiglu(x, self.gate, self.up, self.down)


def _mixture_of_experts(setting, params):
    """The package mixture-of-experts, with its top-2 gating."""
    import mixture_of_experts

    with torch.device('meta'):
        block = mixture_of_experts.MoE(
            dim=setting.width,
            num_experts=setting.num_experts,
            second_policy_train='all',
            capacity_factor_train=1.25 * setting.k,  # it counts tokens
            experts=_Experts(params),
        )
    size = min(setting.group, setting.tokens)
    params = {
        'gate.w_gating': params['router'].detach().requires_grad_(),
        **{f'experts.{k}': params[k] for k in ('gate', 'up', 'down')},
    }

    def layer(p, x):
        groups = x.reshape(-1, size, setting.width)
        y, _ = torch.func.functional_call(block, p, (groups,))
        return y.reshape(x.shape)

    return layer, params


Build = Callable[[Any, Tensors], tuple[Callable, Tensors]]
LAYERS: dict[str, Build] = {
    'dense (PyTorch)': _dense,
    'PyTorch loop over experts': _loop,
    'transformers grouped_mm': _transformers,
    'mixture-of-experts, capacity 1.25': _mixture_of_experts,
}
