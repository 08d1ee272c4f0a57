"""The profiler's trace of some steps."""

import jax
import jax.numpy as jnp
import pytest

from moe.training.profile import Profile


@pytest.mark.parametrize(
    ('steps', 'begun', 'ended'),
    [((), [], []), ((1, 3), [1], [3]), ((0, 1), [0], [1]), ((4, 9), [4], [5])],
)
def test_steps_that_are_traced(tmp_path, monkeypatch, steps, begun, ended):
    # Five steps; a trace that is open at the end is written then.
    started, stopped, step = [], [], 0
    start = lambda folder: started.append((step, folder))
    monkeypatch.setattr(jax.profiler, 'start_trace', start)
    monkeypatch.setattr(
        jax.profiler, 'stop_trace', lambda: stopped.append(step)
    )
    profile = Profile(tmp_path, steps)
    while step < 5:
        profile.before(step)
        step += 1
        profile.after(step, ())
    profile.close()
    assert started == [(step, str(tmp_path / 'profile')) for step in begun]
    assert stopped == ended


def test_a_trace(tmp_path):
    profile = Profile(tmp_path, (0, 1))
    profile.before(0)
    profile.after(1, jnp.ones(3) + 1)
    assert list((tmp_path / 'profile').rglob('*.xplane.pb'))
