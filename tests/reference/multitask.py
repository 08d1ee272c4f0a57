"""Layers of several tasks by loops over examples, in float64.

B examples, N networks or gates, E experts, D input width, H output width.
"""

import json
import math
import pathlib

import numpy as np

GOLDENS = pathlib.Path(__file__).parents[1] / 'goldens' / 'multitask.json'
ACTIVATIONS = {
    'gelu': lambda v: (
        0.5
        * v
        * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)))
    ),
    'linear': lambda v: v,
    'relu': lambda v: max(v, 0.0),
    'sigmoid': lambda v: 1 / (1 + math.exp(-v)),
    'silu': lambda v: v / (1 + math.exp(-v)),
    'tanh': math.tanh,
}


def golden(name):
    """A recorded run: nested dictionaries of numbers."""
    return json.loads(GOLDENS.read_text())[name]


def wide(tree):
    """A tree of nested dictionaries in float64."""
    if isinstance(tree, dict):
        return {name: wide(value) for name, value in tree.items()}
    return np.asarray(tree, np.float64)


def one_of(tree, i):
    """Network i of a tree of stacked parameters."""
    if isinstance(tree, dict):
        return {name: one_of(value, i) for name, value in tree.items()}
    return np.asarray(tree, np.float64)[i]


def numerical_gradient(function, tree, step=1e-6):
    """Central differences of a scalar function at a tree of float64 arrays."""
    if isinstance(tree, dict):
        return {
            name: numerical_gradient(
                lambda v, name=name: function({**tree, name: v}),
                value,
                step,
            )
            for name, value in tree.items()
        }
    gradient = np.zeros(tree.shape)
    for i in np.ndindex(tree.shape):
        up, down = tree.copy(), tree.copy()
        up[i] += step
        down[i] -= step
        gradient[i] = (function(up) - function(down)) / (2 * step)
    return gradient


def norms(kernel):
    """Norm of each column of a kernel [D, H]."""
    return np.array([math.sqrt(np.sum(column**2)) for column in kernel.T])


def normed(kernel, norm):
    """A kernel whose columns have the given norms, by weight norm."""
    columns = []
    for column, length in zip(kernel.T, norm, strict=True):
        columns.append(column * length / math.sqrt(max(column @ column, 1e-6)))
    return np.stack(columns, axis=1)


def batch_norm(x, gamma, beta, epsilon=1e-3):
    """Batch normalisation of [B, D] by its own statistics."""
    y = np.zeros(x.shape)
    for d in range(x.shape[1]):
        mean = sum(x[:, d]) / len(x)
        variance = sum((v - mean) ** 2 for v in x[:, d]) / len(x)
        for b in range(len(x)):
            normal = (x[b, d] - mean) / math.sqrt(variance + epsilon)
            y[b, d] = normal * gamma[d] + beta[d]
    return y


def network(x, params, activations):
    """One network [B, D] -> [B, H], its batch normalisations in training.

    Args:
      x: [B, D].
      params: 'dense_i' to 'kernel' and perhaps 'bias' and 'norm';
        'batch_norm_in' and 'batch_norm_i' to 'gamma' and 'beta', or absent.
      activations: name of each layer's.
    """
    if 'batch_norm_in' in params:
        x = batch_norm(x, **params['batch_norm_in'])
    for i, name in enumerate(activations):
        layer = params[f'dense_{i}']
        kernel = layer['kernel']
        if 'norm' in layer:
            kernel = normed(kernel, layer['norm'])
        y = np.zeros((len(x), kernel.shape[1]))
        for b, h in np.ndindex(y.shape):
            y[b, h] = (
                x[b] @ kernel[:, h] + layer.get('bias', np.zeros(h + 1))[h]
            )
        if f'batch_norm_{i}' in params:
            y = batch_norm(y, **params[f'batch_norm_{i}'])
        x = np.array([[ACTIVATIONS[name](v) for v in row] for row in y])
    return x


def softmax_gate(logits, visible, k=None):
    """One row of gates [E]: the K likeliest visible experts, renormalised.

    Every expert that ties with the K-th stays. A single gate is not
    renormalised.
    """
    powers = np.where(visible, np.exp(logits - np.max(logits[visible])), 0.0)
    probs = powers / np.sum(powers)
    if k is None:
        return probs
    least = sorted(probs[visible])[-k]
    gates = np.where(visible & (probs >= least), probs, 0.0)
    return gates / np.sum(gates) if k > 1 else gates


def multi_gate(outputs, gate_input, kernels, visible, k=None):
    """Dense gates [B, N, E] and mixed outputs [B, N, H].

    Args:
      outputs: of the experts, [B, E, H].
      gate_input: [B, Dg], or each gate's own [B, N, Dg].
      kernels: of each gate, [Dg, number of experts that it sees].
      visible: [N, E].
      k: experts that a gate takes; None for all.
    """
    batch, experts, width = outputs.shape
    gates = np.zeros((batch, len(kernels), experts))
    y = np.zeros((batch, len(kernels), width))
    for b, n in np.ndindex(batch, len(kernels)):
        x = gate_input[b] if gate_input.ndim == 2 else gate_input[b, n]
        logits = np.zeros(experts)
        logits[visible[n]] = x @ kernels[n]
        gates[b, n] = softmax_gate(logits, visible[n], k)
        for e in range(experts):
            y[b, n] += gates[b, n, e] * outputs[b, e]
    return gates, y
