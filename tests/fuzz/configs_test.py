"""Command lines and config files with mistakes: each trains, or is one line.

The short form is part of every run of the tests, the long one of
`make test-long`, which prints how many were accepted and refused.
"""

import traceback

import hypothesis
import pytest
from hypothesis import strategies as st

from configs import multitask, vision
from tests import tiny
from tests.fuzz import grammar, runs


def settings(count):
    return hypothesis.settings(
        max_examples=count,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )


@pytest.fixture(scope='module')
def bases(tmp_path_factory):
    """A small config of each workload, and a place for its files."""
    folder = tmp_path_factory.mktemp('fuzz')
    files = tiny.write_corpus(folder / 'text')
    lm = {'data.source.files': files, 'model.num_layers': 1, 'steps': 100}
    small = {
        'model.num_layers': 2,
        'model.d_model': 16,
        'model.num_heads': 2,
        'model.num_kv_heads': 2,
        'model.dense.hidden': 8,
        'model.moe.experts.hidden': 8,
        'data.batch_size': 8,
        'steps': 100,
    }
    tasks = multitask.get_config('mmoe,synthetic')
    return folder, {
        'lm': tiny.plain(lm),
        'vision': tiny.changed(vision.get_config(), small),
        'multitask': tiny.changed(tasks, {'data.batch_size': 8, 'steps': 100}),
    }


def fuzz(bases, workload, count):
    """Draws command lines and config files, and counts what comes of them."""
    folder, plains = bases
    plain = plains[workload]
    base = tiny.write_config(folder / f'{workload}.py', plain)
    odd = folder / 'odd.py'
    seen, faults = {'accepted': 0, 'refused': 0}, []

    def check(arguments):
        try:
            found = runs.outcome(arguments, folder / 'run')
        except Exception as error:
            found = runs.Outcome(70, traceback.format_exception(error), [])
        if found.fault:
            faults.append((found, arguments, odd.read_bytes()))
            print(faults[-1], flush=True)
        seen['accepted' if found.code is None else 'refused'] += 1

    @settings(count)
    @hypothesis.given(st.data())
    def draw(data):
        odd.write_bytes(b'')
        if data.draw(st.integers(0, 2)):
            given = data.draw(grammar.command_lines(workload))
            check([f'--config={base}', *given])
        else:
            odd.write_bytes(data.draw(grammar.config_files(workload, plain)))
            check([f'--config={odd}'])

    odd.write_bytes(b'')
    check([f'--config={base}'])  # without any mistake
    draw()
    print(f'{workload}: {seen}')
    assert faults == []
    assert seen['refused'] > count // 5
    assert seen['accepted']


@pytest.mark.slow
@pytest.mark.parametrize('workload', ['lm', 'vision', 'multitask'])
def test_a_few(bases, workload):
    fuzz(bases, workload, 5)


@pytest.mark.long
@pytest.mark.parametrize('workload', ['lm', 'vision', 'multitask'])
def test_a_thousand_and_more(bases, workload):
    fuzz(bases, workload, 400)
