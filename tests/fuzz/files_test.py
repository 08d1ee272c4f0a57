"""Files after accidents: each is read, or told in one line; nothing is lost.

Data for a training run, the files of a run and of a sweep, and checkpoints are
cut, flipped, zeroed, spliced with files of other kinds. As for config files
there is a short form and a long one.
"""

import contextlib
import shutil
import traceback

import hypothesis
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

import moe.report.__main__
import moe.sample
from moe.training import folder as run_folder
from moe.training.checkpoint import Checkpoints
from tests import table_run, tiny
from tests.fuzz import grammar, runs
from tests.fuzz.configs_test import settings
from tests.report import runs as reported

# The beginnings of other kinds of files.
OTHERS = (
    b'',
    b'PAR1' + bytes(200),
    b'\x89PNG\r\n\x1a\n' + bytes(100),
    b'\x1f\x8b\x08\x00' + b'x' * 60,
    b'PK\x03\x04' + b'x' * 60,
    b'\xff\xfe' + 'text'.encode('utf-16-le') * 40,
    b'{"a": 1}\n' * 40,
    b'a,b\n1,2\n' * 40,
    b'"' * 3 + b'\n' * 200,
    bytes(range(256)),
)
COUNTS = {'text': 60, 'table': 90, 'images': 70, 'run': 90, 'checkpoint': 30}


def write_data(kind, folder):
    """Writes data; returns the arguments of a run on it, and its files."""
    folder.mkdir()
    if kind == 'text':
        plain = {'data.source.files': tiny.write_corpus(folder / 'text')}
        plain = tiny.plain({**plain, 'model.num_layers': 1})
        files = sorted((folder / 'text').iterdir())
    elif kind == 'table':
        rows = table_run.rows(60)
        names = ('a.csv', 'b.csv.gz')
        files = [table_run.write(folder / name, rows) for name in names]
        plain = table_run.plain(folder / '*.csv*')
    else:
        draw = np.random.default_rng(0)
        files = [folder / 'images.npz']
        x = draw.integers(0, 255, (24, 8, 8)).astype(np.uint8)
        np.savez(files[0], x=x, y=draw.integers(0, 10, 24))
        plain = {
            'workload': 'vision',
            'model': {'d_model': 16, 'num_layers': 1, 'num_heads': 2},
            'data': {
                'source': {'name': 'npz', 'files': str(files[0])},
                'batch_size': 8,
            },
        }
        plain['model'] |= {'num_kv_heads': 2, 'moe': {'num_experts': 4}}
    config = tiny.write_config(folder / 'config.py', plain)
    return [f'--config={config}'], files


def write_run(kind, folder):
    """Writes the folder of a run; returns it."""
    if kind == 'run':
        reported.write(folder)
        np.savez_compressed(
            folder / 'routing.npz',
            texts=np.array(list('abcd')),
            first=np.zeros((2, 4), int),
        )
        return folder
    plain = tiny.plain({'model.num_layers': 1, 'data.seq_len': 8})
    config = tiny.check(plain)
    run_folder.write_description(folder, tiny.resolved(), {'fingerprint': 'x'})
    run_folder.write_plain_config(folder, plain)
    with contextlib.closing(Checkpoints(folder, 2)) as checkpoints:
        for step in (1, 2):
            state = tiny.state(config)._replace(step=jnp.asarray(step))
            checkpoints.save(step, state, {'next': step})
    return folder


def fuzz(count, files, check):
    """Damages one of the files at a time; restores it afterwards."""
    whole = {path: path.read_bytes() for path in files}
    faults, seen = [], {}

    @settings(count)
    @hypothesis.given(st.data())
    def draw(data):
        path = data.draw(st.sampled_from(files))
        content = whole[path]
        given = data.draw(grammar.damaged(content, (*OTHERS, *whole.values())))
        path.write_bytes(given)
        try:
            what, fault = check()
        except Exception as error:
            what, fault = 'raised', traceback.format_exception(error)[-3:]
        finally:
            for one, content in whole.items():
                one.parent.mkdir(parents=True, exist_ok=True)
                one.write_bytes(content)
        seen[what] = seen.get(what, 0) + 1
        if fault:
            faults.append((path.name, fault, given[:300]))
            print(faults[-1], flush=True)

    draw()
    print(seen)
    assert faults == []


def fuzz_data(tmp_path, kind, count):
    arguments, files = write_data(kind, tmp_path / 'data')

    def check():
        found = runs.outcome(arguments, tmp_path / 'run')
        return found.code, found.fault

    assert check() == (None, '')
    fuzz(count, files, check)


def fuzz_run(tmp_path, kind, count):
    folder = write_run(kind, tmp_path / 'run')
    files = sorted(p for p in folder.rglob('*') if p.is_file())

    def check():
        there = tmp_path / 'there'
        shutil.copytree(folder, there)
        before = sorted(there.rglob('*'))
        if kind == 'run':
            main, argv = moe.report.__main__, ['report', str(there)]
        else:
            main = moe.sample
            argv = ['sample', f'--workdir={there}', '--length=1']
        code, lines = runs.call(main.main, main._FLAGS, argv)
        left = sorted(set(there.rglob('*')) - set(before)) if code else []
        shutil.rmtree(there)
        if not code:  # older checkpoints may have been taken, and that told
            return code, '' if len(lines) <= 3 else str(lines)
        return code, runs.Outcome(code, lines, list(map(str, left))).fault

    assert check() == (0, '')
    fuzz(count, files, check)


FUZZ = {
    'text': fuzz_data,
    'table': fuzz_data,
    'images': fuzz_data,
    'run': fuzz_run,
    'checkpoint': fuzz_run,
}


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['text', 'table', 'images', 'run'])
def test_a_few(tmp_path, kind):
    FUZZ[kind](tmp_path, kind, 5)


@pytest.mark.long
@pytest.mark.parametrize('kind', FUZZ)
def test_three_hundred_and_more(tmp_path, kind):
    FUZZ[kind](tmp_path, kind, COUNTS[kind])
