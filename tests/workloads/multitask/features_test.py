"""Features against loops over examples and columns, by hand."""

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.config import ConfigError, OneOf, parse
from moe.workloads.multitask.features import FEATURES, Embedding

# Tables of 3, 20 and 5 ids; columns 0 and 3 share the second.
SIZES, TABLE_OF = (3, 20, 5), (1, 0, 2, 1)


def batch(rows=6):
    draw = np.random.default_rng(0)
    sizes = [SIZES[t] for t in TABLE_OF]
    return {
        'numeric': draw.normal(size=(rows, 2)).astype(np.float32),
        'categorical': draw.integers(0, sizes, (rows, 4)).astype(np.int32),
        'label': np.zeros((rows, 1), np.float32),
    }


def made(width, onehot_up_to, data=None, sizes=SIZES, table_of=TABLE_OF):
    module = Embedding(sizes, table_of, width, onehot_up_to)
    data = batch() if data is None else data
    variables = module.init(jax.random.key(0), data)
    return module, variables, data


def test_embeddings_of_one_width_are_one_table():
    module, variables, data = made(width=4, onehot_up_to=0)
    assert list(variables['params']) == ['embedding_4']
    table = np.float64(variables['params']['embedding_4'])
    assert table.shape == (3 + 20 + 5, 4)
    actual = module.apply(variables, data)
    assert actual.dtype == jnp.float32
    first = {0: 0, 1: 3, 2: 23}
    for b, row in enumerate(actual):
        desired = [*data['numeric'][b]]
        for c, t in enumerate(TABLE_OF):
            desired += [*table[first[t] + data['categorical'][b, c]]]
        np.testing.assert_allclose(row, desired, rtol=0, atol=1e-7)


def test_gradient_reaches_the_rows_of_a_batch():
    module, variables, data = made(width=4, onehot_up_to=0)
    scale = np.random.default_rng(1).normal(size=(6, 2 + 4 * 4))
    loss = lambda v: jnp.sum(module.apply(v, data) * scale)
    actual = jax.grad(loss)(variables)['params']['embedding_4']
    desired = np.zeros((28, 4))
    first = {0: 0, 1: 3, 2: 23}
    for b in range(6):
        for c, t in enumerate(TABLE_OF):
            own = scale[b, 2 + 4 * c : 6 + 4 * c]
            desired[first[t] + data['categorical'][b, c]] += own
    np.testing.assert_allclose(actual, desired, rtol=0, atol=1e-6)
    assert np.any(np.all(desired == 0, axis=1))


@pytest.mark.parametrize(
    ('size', 'width'),
    # 1.6 * 2^.56 = 2.36, 1.6 * 10^.56 = 5.81, 1.6 * 60^.56 = 15.84.
    [(1, 2), (2, 2), (10, 6), (60, 16), (1000, 16)],
)
def test_rule_of_widths(size, width):
    assert Embedding((), (), None, 0).width_of(size) == width
    assert Embedding((), (), None, size).width_of(size) is None
    assert Embedding((), (), 7, size - 1).width_of(size) == 7


def test_small_tables_are_onehot():
    # Of 5 ids or fewer: columns 1 and 2; 20 ids: 1.6 * 20^.56 = 8.57.
    module, variables, data = made(width=None, onehot_up_to=5)
    assert list(variables['params']) == ['embedding_9']
    table = np.float64(variables['params']['embedding_9'])
    assert table.shape == (20, 9)
    actual = module.apply(variables, data)
    for b, row in enumerate(actual):
        ids = data['categorical'][b]
        desired = [*data['numeric'][b]]
        desired += [float(ids[1] == i) for i in range(3)]
        desired += [float(ids[2] == i) for i in range(5)]
        desired += [*table[ids[0]], *table[ids[3]]]
        np.testing.assert_allclose(row, desired, rtol=0, atol=1e-7)


def test_all_onehot_has_no_parameters():
    module, variables, data = made(width=None, onehot_up_to=20)
    assert variables == {}
    actual = module.apply(variables, data)
    assert actual.shape == (6, 2 + 20 + 3 + 5 + 20)
    np.testing.assert_array_equal(np.sum(actual[:, 2:], axis=1), 4)


def test_narrow_tables_come_first():
    # 1.6 * 5^.56 = 3.94: widths 3 (3 ids: 2.96), 4 and 9.
    module, variables, data = made(width=None, onehot_up_to=0)
    tables = {n: np.float64(t) for n, t in variables['params'].items()}
    assert {n: t.shape for n, t in tables.items()} == {
        'embedding_3': (3, 3),
        'embedding_4': (5, 4),
        'embedding_9': (20, 9),
    }
    ids = data['categorical']
    desired = [
        data['numeric'],
        tables['embedding_3'][ids[:, 1]],
        tables['embedding_4'][ids[:, 2]],
        tables['embedding_9'][ids[:, 0]],
        tables['embedding_9'][ids[:, 3]],
    ]
    actual = module.apply(variables, data)
    np.testing.assert_allclose(
        actual, np.concatenate(desired, axis=1), rtol=0, atol=1e-7
    )


@pytest.mark.parametrize('onehot_up_to', [0, 20])
def test_ids_beyond_a_table_are_unknown(onehot_up_to):
    module, variables, data = made(4, onehot_up_to)
    unknown = {**data, 'categorical': np.zeros((6, 4), np.int32)}
    beyond = np.int32([20, 3, 5, -1])
    beyond = {**data, 'categorical': np.tile(beyond, (6, 1))}
    np.testing.assert_array_equal(
        module.apply(variables, beyond), module.apply(variables, unknown)
    )


def test_numbers_alone():
    data = {**batch(), 'categorical': np.zeros((6, 0), np.int32)}
    module, variables, data = made(4, 0, data, (), ())
    assert variables == {}
    np.testing.assert_array_equal(
        module.apply(variables, data), data['numeric']
    )


@dataclasses.dataclass(frozen=True)
class Section:
    features: Annotated[Any, OneOf(FEATURES, frozenset({'sizes', 'table_of'}))]


def test_config_is_checked():
    plain = {'name': 'embedding', 'width': None, 'onehot_up_to': 10}
    made = parse(Section, {'features': plain}).features
    assert made.keywords == {'width': None, 'onehot_up_to': 10}
    for field in ('width', 'onehot_up_to'):
        with pytest.raises(ConfigError, match=field):
            parse(Section, {'features': {**plain, field: -1}})
    with pytest.raises(ConfigError, match='sizes'):
        parse(Section, {'features': {**plain, 'sizes': (1,)}})
