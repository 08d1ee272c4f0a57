"""Feed-forward experts on one token at a time, in float64, with gradients.

D width, F hidden width. The parameters of one expert are a dictionary: `up`
[D, F], `down` [F, D], `gate` [D, F] if gated, and maybe `up_bias` and so on.
"""

import numpy as np

# Of a gated activation, the function that the gate goes through.
POINTWISE = {
    'relu': 'relu',
    'gelu': 'gelu',
    'silu': 'silu',
    'swiglu': 'silu',
    'geglu': 'gelu',
}


def activate(name, x):
    """relu, silu `x sigmoid(x)`, or gelu in its tanh approximation."""
    if name == 'relu':
        return np.maximum(x, 0)
    if name == 'silu':
        return x / (1 + np.exp(-x))
    inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    return 0.5 * x * (1 + np.tanh(inner))


def slope(name, x):
    """Derivative of `activate`."""
    if name == 'relu':
        return np.where(x > 0, 1.0, 0.0)
    if name == 'silu':
        s = 1 / (1 + np.exp(-x))
        return s + x * s * (1 - s)
    inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    d_inner = np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x**2)
    t = np.tanh(inner)
    return 0.5 * (1 + t) + 0.5 * x * (1 - t**2) * d_inner


def is_gated(activation):
    """Whether there is a gate matrix."""
    return activation in ('swiglu', 'geglu')


def expert_of(params, e):
    """The parameters of expert e out of stacked ones."""
    return {name: value[e] for name, value in params.items()}


def _hidden(x, params, activation):
    """Before the activation: up, and gate or None."""
    up = x @ params['up'] + params.get('up_bias', 0.0)
    if not is_gated(activation):
        return up, None
    return up, x @ params['gate'] + params.get('gate_bias', 0.0)


def mlp(x, params, activation):
    """Output of one expert for one token [D]."""
    name = POINTWISE[activation]
    up, gate = _hidden(x, params, activation)
    h = activate(name, up) if gate is None else activate(name, gate) * up
    return h @ params['down'] + params.get('down_bias', 0.0)


def mlp_gradients(x, params, activation, dy):
    """Gradients of `sum(mlp(x) * dy)`: of x, and of each parameter."""
    name = POINTWISE[activation]
    up, gate = _hidden(x, params, activation)
    d = {}
    dh = params['down'] @ dy
    if gate is None:
        h = activate(name, up)
        d_up = dh * slope(name, up)
    else:
        h = activate(name, gate) * up
        d_up = dh * activate(name, gate)
        d_gate = dh * up * slope(name, gate)
        d['gate'], d['gate_bias'] = np.outer(x, d_gate), d_gate
    d['up'], d['up_bias'] = np.outer(x, d_up), d_up
    d['down'], d['down_bias'] = np.outer(h, dy), dy
    dx = params['up'] @ d_up
    if gate is not None:
        dx = dx + params['gate'] @ d_gate
    return dx, {name: d[name] for name in params}
