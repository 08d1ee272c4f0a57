"""The table in docs/reference/routers.md: every cell measured or parsed.

    python -m tests.routing.table

rewrites it. G groups, S tokens a group, D width, E experts.
"""

import functools
import inspect
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np

from moe.dispatch import DISPATCHERS
from moe.experts import MLP
from moe.layers import (
    LOSSES,
    Gate,
    MoE,
    SoftMoE,
)
from moe.routing import ROUTERS
from moe.types import Context, traits_of
from tests.reference.compare import assert_close

PAGE = pathlib.Path(__file__).parents[2] / 'docs/reference/routers.md'
MARKERS = '<!-- table -->', '<!-- /table -->'
HEAD = (
    'name',
    'essence',
    'source',
    'losses with an effect',
    'dispatchers',
    'deterministic in evaluation',
    'causal',
    'replay',
)
# Features enough that the gradient of a kernel is 0 only where the gradient of
# the logits is.
G, S, D, E = 2, 8, 16, 8
FIRST, DRAWS = 4, 4  # tokens before the change; changes tried
KEYS = jax.random.key(1), jax.random.key(2)
REACHES = 1e-5  # rounding leaves less of a gradient that is none


def rows():
    """Name to the cells of its row, for every router a config can name."""
    return {name: row(name) for name in ROUTERS}


def row(name):
    """The cells of one router, after its name."""
    deterministic = is_deterministic(name)
    return (
        essence(name),
        sources(name),
        ', '.join(f'`{loss}`' for loss in reaching(name)) or 'none',
        ', '.join(f'`{e}`' for e in serving(name)) or 'its own',
        'yes' if deterministic else 'no',
        causality(name),
        'yes' if traits_of(ROUTERS[name]).replays else 'no',
    )


def render(cells):
    """The table in Markdown."""
    lines = [HEAD, ('---',) * len(HEAD)]
    lines += [(f'`{name}`', *cells[name]) for name in sorted(cells)]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def written():
    """The table as the page has it."""
    return PAGE.read_text().split(MARKERS[0])[1].split(MARKERS[1])[0].strip()


def essence(name):
    """First line of the docstring, of the layer for a soft mixture."""
    return _docstring(name).splitlines()[0]


def sources(name):
    """Links to the papers after `Source:`."""
    text = re.search(r'Sources?:(.*?)(\n\n|$)', _docstring(name), re.DOTALL)
    found = re.findall(r'arXiv\s+(\d{4}\.\d{5})', text[1] if text else '')
    links = [f'[{number}](https://arxiv.org/abs/{number})' for number in found]
    return ', '.join(links) or '-'


def reaching(name):
    """The losses with a gradient by the router's logits, in training."""
    layer, given = build(name), inputs(name)
    variables = variables_of(layer, given)

    def losses(kernel):
        params = {**variables['params'], 'router': kernel}
        _, aux = apply(layer, {**variables, 'params': params}, given, True)
        return jnp.stack([aux.losses[loss] for loss in LOSSES])

    gradients = jax.jit(jax.jacrev(losses))(variables['params']['router'])
    assert np.all(np.isfinite(gradients)), name
    largest = np.max(np.abs(gradients), axis=(1, 2))
    return [n for n, g in zip(LOSSES, largest, strict=True) if g > REACHES]


def serving(name):
    """The dispatchers that agree: outputs, losses and gradients.

    With drops in training and without in evaluation. None for a router that
    `MoE` does not take.
    """
    if name == 'soft':
        return []
    given = inputs(name)
    results = {}
    for dispatcher in DISPATCHERS:
        layer = build(name, dispatcher=dispatcher, capacity_factor=1.0)
        variables = variables_of(layer, given)
        state = {k: v for k, v in variables.items() if k != 'params'}

        def objective(params, x, layer=layer, state=state):
            given_x = {**given, 'x': x}
            tree = {**state, 'params': params}
            y, aux = apply(layer, tree, given_x, True)
            total = jnp.sum(y * given['dy']) + sum(aux.losses.values())
            return total, (y, aux.losses)

        gradient = jax.grad(objective, argnums=(0, 1), has_aux=True)
        training = jax.jit(gradient)(variables['params'], given['x'])
        evaluation = apply(layer, variables, given, False)[0]
        results[dispatcher] = jax.device_get((training, evaluation))
    oracle = results['onehot']
    return [e for e in DISPATCHERS if _equal(results[e], oracle)]


def is_deterministic(name):
    """Whether evaluation is the same to the last bit with another key.

    A router is given the keys themselves, which `MoE` would keep from it.
    """
    layer, given = build(name), inputs(name)
    variables = variables_of(layer, given)
    if name == 'soft':
        runs = [apply(layer, variables, given, False, key) for key in KEYS]
    else:
        context = Context(
            mask=jnp.ones((G, S), bool),
            position=jnp.arange(G * S, dtype=jnp.int32).reshape(G, S),
            token_id=given['token_ids'],
        )
        gate = Gate(E, ROUTERS[name])
        runs = [
            gate.apply(variables, given['x'], context._replace(key=key))
            for key in KEYS
        ]
    same = jax.tree.map(lambda a, b: bool(np.all(a == b)), *runs)
    return all(jax.tree.leaves(same))


def causality(name):
    """'yes', 'in evaluation' or 'no': whether later tokens change nothing."""
    train, evaluation = (is_causal(name, train) for train in (True, False))
    assert evaluation or not train, f'{name}: causal in training alone'
    return 'yes' if train else 'in evaluation' if evaluation else 'no'


def is_causal(name, train, **options):
    """Whether the first tokens of each group keep their outputs.

    The later ones change. Without capacity, unless the options have one, an
    output depends on the others by the choices and the weights alone.
    """
    layer, given = build(name, **options), inputs(name)
    variables = variables_of(layer, given)

    def first(x, token_ids):
        changed = {**given, 'x': x, 'token_ids': token_ids}
        return apply(layer, variables, changed, train)[0][:, :FIRST]

    desired = first(given['x'], given['token_ids'])
    later = np.arange(S) >= FIRST
    for seed in range(1, 1 + DRAWS):
        other = inputs(name, seed)
        x = np.where(later[:, None], other['x'], given['x'])
        ids = np.where(later, other['token_ids'], given['token_ids'])
        if not _equal(first(x, ids), desired):
            return False
    return True


def build(name, dispatcher='indexed', **options):
    """The layer with a router's default options."""
    experts = MLP(hidden=4, num_experts=E, parent=None)
    if name == 'soft':
        return SoftMoE(experts)
    return MoE(experts, ROUTERS[name], dispatcher=dispatcher, **options)


@functools.cache
def inputs(name, seed=0):
    """Tokens of scale 1, and ids."""
    draw = np.random.default_rng(seed)
    given = {
        'x': draw.standard_normal((G, S, D), np.float32),
        'dy': draw.standard_normal((G, S, D), np.float32),
        'token_ids': draw.integers(0, 256, (G, S), np.int32),
    }
    return given


def variables_of(layer, given):
    """Random parameters and state; scalars are 1."""
    initialize = functools.partial(apply, layer, None, given, False)
    draw = np.random.default_rng(0)

    def make(leaf):
        if not leaf.ndim:
            return np.float32(1)
        return np.float32(0.5) * draw.standard_normal(leaf.shape, np.float32)

    return jax.tree.map(make, jax.eval_shape(initialize))


def apply(layer, variables, given, train, key=KEYS[0], **options):
    """(y, aux) of the layer; its variables if it is given none."""
    given = {k: v for k, v in given.items() if k not in ('x', 'dy')} | {
        'train': train,
        **options,
        'x': given['x'],
    }
    if variables is None:
        return layer.init(key, **given)
    return layer.apply(variables, **given, rngs={'router': key})


def _docstring(name):
    """Of the function, or of the layer it stands for."""
    return inspect.getdoc(SoftMoE if name == 'soft' else ROUTERS[name])


def _equal(one, two):
    try:
        jax.tree.map(lambda a, b: assert_close(a, b, 1e-5), one, two)
    except AssertionError:
        return False
    return True


def main():
    """Rewrites the table of the page."""
    before, rest = PAGE.read_text().split(MARKERS[0])
    after = rest.split(MARKERS[1])[1]
    table = '\n'.join(('', '', render(rows()), '', ''))
    PAGE.write_text(before + MARKERS[0] + table + MARKERS[1] + after)


if __name__ == '__main__':
    main()
