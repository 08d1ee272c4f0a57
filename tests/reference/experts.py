"""Feed-forward experts on one token at a time, in float64, with gradients.

D width, F hidden width. The parameters of one expert are a dictionary: `up`
[D, F], `down` [F, D], `gate` [D, F] if gated, and maybe `up_bias` and so on.
"""

import numpy as np

# Of a gated activation, the function that the gate goes through.
POINTWISE = {
    'relu': 'relu',
    'relu_squared': 'relu_squared',
    'gelu': 'gelu',
    'silu': 'silu',
    'swiglu': 'silu',
    'geglu': 'gelu',
}
# An activation is its name, or with its options (name, limit, alpha).
CLAMPED = ('clamped_swiglu', 0.75, 1.5)


def activate(name, x):
    """relu, its square, silu `x sigmoid(x)`, or gelu by its tanh formula."""
    if name == 'relu':
        return np.maximum(x, 0)
    if name == 'relu_squared':
        return np.maximum(x, 0) ** 2
    if name == 'silu':
        return x / (1 + np.exp(-x))
    inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    return 0.5 * x * (1 + np.tanh(inner))


def slope(name, x):
    """Derivative of `activate`."""
    if name == 'relu':
        return np.where(x > 0, 1.0, 0.0)
    if name == 'relu_squared':
        return 2 * np.maximum(x, 0)
    if name == 'silu':
        s = 1 / (1 + np.exp(-x))
        return s + x * s * (1 - s)
    inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    d_inner = np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x**2)
    t = np.tanh(inner)
    return 0.5 * (1 + t) + 0.5 * x * (1 - t**2) * d_inner


def is_gated(activation):
    """Whether there is a gate matrix."""
    return activation in ('swiglu', 'geglu', CLAMPED)


def hidden(activation, up, gate):
    """The hidden numbers, and their derivatives by up and gate (or None)."""
    if activation == CLAMPED:
        _, limit, alpha = activation
        g, u = np.minimum(gate, limit), np.clip(up, -limit, limit)
        s = 1 / (1 + np.exp(-alpha * g))
        d_up = np.where(np.abs(up) < limit, g * s, 0.0)
        d_gate = (u + 1) * (s + alpha * g * s * (1 - s))
        return (u + 1) * g * s, d_up, np.where(gate < limit, d_gate, 0.0)
    name = POINTWISE[activation]
    if gate is None:
        return activate(name, up), slope(name, up), None
    h = activate(name, gate) * up
    return h, activate(name, gate), up * slope(name, gate)


def expert_of(params, e):
    """The parameters of expert e out of stacked ones."""
    return {name: value[e] for name, value in params.items()}


def _products(x, params, activation):
    """Before the activation: up, and gate or None."""
    up = x @ params['up'] + params.get('up_bias', 0.0)
    if not is_gated(activation):
        return up, None
    return up, x @ params['gate'] + params.get('gate_bias', 0.0)


def mlp(x, params, activation):
    """Output of one expert for one token [D]."""
    h, _, _ = hidden(activation, *_products(x, params, activation))
    return h @ params['down'] + params.get('down_bias', 0.0)


def mlp_gradients(x, params, activation, dy):
    """Gradients of `sum(mlp(x) * dy)`: of x, and of each parameter."""
    products = _products(x, params, activation)
    h, slope_up, slope_gate = hidden(activation, *products)
    dh = params['down'] @ dy
    d_up = dh * slope_up
    d = {'up': np.outer(x, d_up), 'up_bias': d_up}
    d['down'], d['down_bias'] = np.outer(h, dy), dy
    dx = params['up'] @ d_up
    if slope_gate is not None:
        d_gate = dh * slope_gate
        d['gate'], d['gate_bias'] = np.outer(x, d_gate), d_gate
        dx = dx + params['gate'] @ d_gate
    return dx, {name: d[name] for name in params}
