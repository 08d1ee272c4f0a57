"""Every implementation that is timed computes the same layer."""

import jax
import numpy as np
import pytest

from benchmarks import layer, layers
from benchmarks.problem import Problem, Setting
from benchmarks.record import why_missing
from benchmarks.timing import Case, Rows, Timing

SETTING = Setting(tokens=32, width=8, hidden=4, num_experts=4, group=16)
# Logits of this load keep each expert within 1.25 times its mean but for a few
# rows, which an oracle of the layer with capacity would have to follow.
CAPACITY = 'indexed, capacity 1.25'


@pytest.fixture(scope='module')
def problem():
    return Problem(SETTING)


def oracle(problem, dense=False):
    """The layer in float64, a token at a time; no capacity."""
    f64 = lambda tree: jax.tree.map(lambda a: np.asarray(a, np.float64), tree)
    x, result = f64(problem.x), []

    def network(row, gate, up, down):
        h = row @ gate
        return (h / (1 + np.exp(-h)) * (row @ up)) @ down

    if dense:
        w = f64(problem.dense_params)
        return network(x, w['gate'], w['up'], w['down'])
    router, w = f64(problem.params['router']), f64(problem.params['experts'])
    for row in x:
        logit = row @ router
        chosen = np.argsort(-logit)[:2]
        share = np.exp(logit[chosen]) / np.exp(logit[chosen]).sum()
        outs = [network(row, *(w[n][e] for n in ('gate', 'up', 'down')))
                for e in chosen]  # fmt: skip
        result.append(share @ np.array(outs))
    return np.array(result)


def test_layers_of_jax(problem):
    outputs = {}
    for name, (function, _) in layers.jax_layers(SETTING).items():
        dense = name.startswith('dense')
        params = problem.dense_params if dense else problem.params
        outputs[name] = np.asarray(jax.jit(function)(params, problem.x))
        if 'capacity' not in name:
            np.testing.assert_allclose(
                outputs[name], oracle(problem, dense), atol=1e-5
            )
    with_capacity = [n for n in outputs if 'capacity' in n]
    assert len(with_capacity) == 4
    # The places go to first choices first in both: the same rows are dropped.
    for name in with_capacity:
        np.testing.assert_allclose(
            outputs[name], outputs[CAPACITY], atol=1e-5, err_msg=name
        )
    assert not np.allclose(outputs[CAPACITY], oracle(problem), atol=1e-2)


def test_peers_in_pytorch(problem):
    pytest.importorskip('torch', reason='the extra peers is not installed')
    function = layers.jax_layers(SETTING)['grouped, dropless'][0]
    step = jax.jit(layers.gradients(function))
    desired = layers.digest(step(problem.params, problem.x))
    for case in layers.cases(SETTING):
        if case.name not in layers.PEERS or case.not_run:
            continue
        if 'dense' in case.name or 'capacity' in case.name:
            continue
        actual = layers.digest(case.build()())
        np.testing.assert_allclose(actual, desired, rtol=1e-5)


def test_what_is_not_installed_is_not_run(monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    assert why_missing('torch') == 'torch is not installed'
    assert why_missing('torch', 'transformers') == (
        'torch and transformers are not installed'
    )
    peers = [c for c in layers.cases(SETTING) if c.name in layers.PEERS]
    assert len(peers) == 4
    assert all('not installed' in case.not_run for case in peers)


def test_cases_with_other_results_fail():
    facts = SETTING.facts()
    dropless, dropping = Rows(64), Rows(60, 20, 4)
    found = [
        (Case(name, lambda: print, rows=rows, facts=facts), timing)
        for name, rows, timing in (
            (layer.DROPLESS, dropless, Timing((1.0,), digest=(2.0, 3.0))),
            ('same', dropless, Timing((1.0,), digest=(2.0002, 3.0))),
            ('other', dropless, Timing((1.0,), digest=(2.0, 3.1))),
            (CAPACITY, dropping, Timing((1.0,), digest=(1.0, 1.0))),
            ('drops others', dropping, Timing((1.0,), digest=(1.1, 1.0))),
            ('fewer', Rows(50, 20, 14), Timing((1.0,), digest=(0.7, 1.0))),
            ('dense', None, Timing((1.0,), digest=(7.0, 7.0))),
        )
    ]
    failed = {c.name for c, timing in layer.checked(found) if timing.failed}
    assert failed == {'other', 'drops others'}


def test_ratios_to_the_limits():
    setting = Setting(tokens=4, width=2, hidden=2, num_experts=2)
    facts, size = setting.facts(), 6000
    times = [
        # 2 * 6,000 bytes in 1 s: 12 kB/s.
        (Case(layer.COPY, lambda: print, facts={'bytes': size}), 1.0),
        (Case('dense (XLA)', lambda: print, facts=facts), 0.5),
        (Case('dense (PyTorch)', lambda: print, facts=facts), 0.4),
        (Case(layer.DROPLESS, lambda: print, facts=facts), 0.8),
    ]
    found = [(case, Timing((seconds,))) for case, seconds in times]
    records = {r['case']: r for r in layer.compared(found, setting)}
    # The faster dense layer takes .4 s. The weights are 2 * 3 * 2 * 2 * 4 = 96
    # bytes; three times that is 288, in .024 s.
    ours = records[layer.DROPLESS]
    assert ours['dense_over_time'] == 0.5
    assert ours['limit_over_time'] == pytest.approx(0.424 / 0.8, abs=1e-4)
    limit = records[layer.MEMORY_LIMIT]
    assert limit['milliseconds']['median'] == pytest.approx(424)
    assert limit['dense_over_time'] == pytest.approx(0.4 / 0.424, abs=1e-4)
