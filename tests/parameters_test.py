"""Declarations of parameters, however the modules that make them are lifted."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.parameters import (
    Parameter,
    declare_all,
    declared,
    parameter,
    parts,
)

KEY = jax.random.key(0)
X = np.ones((5, 4), np.float32)


class Scaled(nn.Module):
    """A declared matrix [4, 4], and linen's own modules."""

    @nn.compact
    def __call__(self, x):
        w = parameter(
            self,
            'w',
            nn.initializers.lecun_normal(),
            (4, 4),
            axes=('embed', 'hidden'),
            decay=True,
            matrix=(1, 1),
        )
        gate = parameter(
            self, 'gate', nn.initializers.ones_init(), (4, 4), decay=False
        )
        return nn.LayerNorm()(nn.Dense(4)(x @ w @ gate))


W = Parameter((4, 4), ('embed', 'hidden'), True, (1, 1))
GATE = Parameter((4, 4), (None, None), False)
KERNEL = Parameter((4, 4), (None, None), True)
VECTOR = Parameter((4,), (None,), False)
TREE = {
    'w': W,
    'gate': GATE,
    'Dense_0': {'kernel': KERNEL, 'bias': VECTOR},
    'LayerNorm_0': {'scale': VECTOR, 'bias': VECTOR},
}


def stacked(tree, size, axis=None):
    """The declarations with one more axis in front."""
    return jax.tree.map(
        lambda p: Parameter(
            (size, *p.shape), (axis, *p.axes), p.decay, p.matrix, p.multiplied
        ),
        tree,
    )


def test_parameters_are_those_of_linen():
    # The same tree, values and keys as with `self.param`.
    class Plain(nn.Module):
        @nn.compact
        def __call__(self, x):
            init = nn.initializers.lecun_normal()
            w = self.param('w', init, (4, 4))
            gate = self.param('gate', nn.initializers.ones_init(), (4, 4))
            return nn.LayerNorm()(nn.Dense(4)(x @ w @ gate))

    desired = Plain().init(KEY, X)
    found = Scaled().init(KEY, X)
    jax.tree.map(np.testing.assert_array_equal, found, desired)
    assert set(found) == {'params'}


def test_declared():
    # What linen's modules make is decayed if it has two axes or more.
    assert declared(Scaled().init, KEY, X) == TREE
    # Once more: nothing is left of the first time, and nothing is missed.
    assert declared(Scaled().init, KEY, X) == TREE
    assert TREE['w'].size == 16


def test_lifted_modules_add_axes_in_front():
    # A bias [3, 4] of 3 networks is no matrix.
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            many = nn.vmap(
                Scaled,
                variable_axes={'params': 0},
                split_rngs={'params': True},
                in_axes=None,
                axis_size=3,
            )(name='many')
            x = jnp.sum(many(x), axis=0)
            body = nn.remat(lambda module, x: (module(x), None))
            repeated = nn.scan(
                body,
                variable_axes={'params': 0},
                split_rngs={'params': True},
                length=2,
            )
            return repeated(Scaled(name='again'), x)[0]

    found = declared(Model().init, KEY, X)
    assert found == {'many': stacked(TREE, 3), 'again': stacked(TREE, 2)}


class Mixture(nn.Module):
    """Calls its parts, and declares of all what they are."""

    experts: nn.Module
    gate: nn.Module

    @nn.compact
    def __call__(self, x):
        y = self.experts(x) * self.gate(x)
        declare_all(self.experts, first_axis='expert')
        declare_all(self.gate, decay=False)
        return y


def test_declare_all():
    # What a module declared itself stands: the first axis of `w` is 'embed'.
    experts = jax.tree.map(
        lambda p: Parameter(
            p.shape, ('expert', *p.axes[1:]), p.decay, p.matrix
        ),
        TREE,
    ) | {'w': W}
    vector = Parameter((4,), (None,), False)
    gate = {'kernel': Parameter((4, 4), (None, None), False), 'bias': vector}
    expected = {'experts': experts, 'gate': gate}
    assert declared(Mixture(Scaled(), nn.Dense(4)).init, KEY, X) == expected
    # Inside a lifted module it is the first of the axes that were there.
    many = nn.vmap(
        Mixture, variable_axes={'params': 0}, split_rngs={'params': True}
    )(Scaled(), nn.Dense(4))
    found = declared(many.init, KEY, X[None])
    assert found == stacked(expected, 1)


def test_modules_that_are_jitted():
    # Traced once and then cached, they would say nothing the second time.
    jitted = nn.jit(Scaled)

    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return jitted(name='inner')(x)

    Outer().init(KEY, X)
    for _ in range(2):
        assert declared(Outer().init, KEY, X) == {'inner': TREE}


def test_shared_scopes():
    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x):
            inner = Scaled()
            nn.share_scope(self, inner)
            return inner(x)

    assert declared(Outer().init, KEY, X) == TREE


def test_setup_and_variables_that_are_no_parameters():
    class Model(nn.Module):
        def setup(self):
            zeros = nn.initializers.zeros_init()
            self.table = parameter(
                self, 'table', zeros, (3, 4), decay=True, multiplied=False
            )
            self.norm = nn.BatchNorm(use_running_average=True)

        def __call__(self, x):
            return self.norm(x) + self.table[0]

    assert declared(Model().init, KEY, X) == {
        'table': Parameter((3, 4), (None, None), True, None, False),
        'norm': {'scale': VECTOR, 'bias': VECTOR},
    }


def test_nothing_is_noted_outside():
    # An application of its own inside of the initialization, too.
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            inner = Scaled()
            y = inner(x)
            if self.is_initializing():
                module, variables = inner.unbind()
                y = y + module.apply(variables, x)
            return y

    assert declared(Model().init, KEY, X) == {'Scaled_0': TREE}
    assert Scaled().apply(Scaled().init(KEY, X), X).shape == (5, 4)


@pytest.mark.parametrize(
    ('path', 'axes', 'part'),
    [
        ('embedding', (None, 'embed'), 'embedding'),
        ('position_embedding', (None, None), 'embedding'),
        ('stack/layers/block_0/attention/key', (None,), 'attention'),
        ('stack/layers/block_0/attention_norm/scale', (None,), 'other'),
        ('stack/layers/block_0/moe/router', (None, None), 'router'),
        ('stack/layers/block_0/moe/router_noise', (None, None), 'router'),
        ('stack/layers/block_0/moe/experts/gate', ('expert',), 'experts'),
        ('stack/layers/block_0/moe/other/up', ('expert', None), 'experts'),
        ('stack/layers/block_0/mlp/gate', (None, None), 'dense'),
        ('mixture/gates_of_4/router', (None, None), 'router'),
        ('head_bias', (None,), 'head'),
        ('towers/dense_0/kernel', ('task', None, None), 'head'),
        ('norm/scale', (None,), 'other'),
    ],
)
def test_parts_of_a_model(path, axes, part):
    tree = Parameter((2,) * len(axes), axes, decay=True)
    names = part
    for step in reversed(path.split('/')):
        tree, names = {step: tree}, {step: names}
    assert parts(tree) == names
