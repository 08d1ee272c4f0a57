"""The page of a long run of a large mixture: small, and soon there."""

import json

import numpy as np
import pytest

from moe import report
from moe.report import run as run_module
from moe.workloads import reports
from tests.report import runs
from tests.report.page_test import Parsed

pytestmark = pytest.mark.slow

LAYERS, EXPERTS, STEPS, EVERY = 64, 256, 100_000, 1000


def write_large(folder):
    """100,000 steps of 64 layers of 256 experts, a line every 1,000.

    An evaluation in every tenth line; the routing of 512 tokens, 8 choices
    each, of two sets.
    """
    draw = np.random.default_rng(0)
    loads = draw.uniform(0, 2, (8, EXPERTS)).round(4).tolist()
    first = next(iter(runs.lines()))
    names = [
        n for n in first if n.startswith('moe/layer_1/') and 'load' not in n
    ]

    def line(step):
        found = {'step': step, 'train/loss': 2 + 1 / step}
        for layer in range(LAYERS):
            place = f'moe/layer_{layer}'
            found[f'{place}/load'] = loads[(step // EVERY + layer) % 8]
            for name in names:
                own = name.rpartition('/')[2]
                found[f'{place}/{own}'] = (step + layer) % 7 / 7
        if step % (10 * EVERY) == 0:
            found['eval/loss'] = 3.0 + 1 / step
            found |= {
                f'eval/{n}': v for n, v in found.items() if n[:3] == 'moe'
            }
        return found

    lines = map(line, range(EVERY, STEPS + 1, EVERY))
    runs.write(folder, [], routing=False)
    with (folder / 'metrics.jsonl').open('w') as file:
        file.writelines(json.dumps(each) + '\n' for each in lines)
    size = LAYERS, 8, 512
    np.savez_compressed(
        folder / 'routing.npz',
        texts=np.array(['token'] * 512),
        set_of=np.repeat([0, 1], 256),
        expert=draw.integers(0, EXPERTS, size),
        weight=draw.uniform(size=size),
        sets=np.array(['a', 'b']),
        counted=np.array(2**14),
        load=np.ones((2, LAYERS, EXPERTS), np.float32),
        together=draw.integers(0, 9, (LAYERS, EXPERTS, EXPERTS)),
        names=np.array(['', 'token']),
        listed=np.ones((LAYERS, EXPERTS, 8), int),
        share=np.ones((LAYERS, EXPERTS, 8), np.float32),
    )
    return folder


def test_a_large_page(tmp_path, monkeypatch):
    # A smaller budget of bytes that are parsed than that of a real page.
    monkeypatch.setattr(run_module, 'PARSED', 2**20)
    folder = write_large(tmp_path / 'large')
    assert (folder / 'metrics.jsonl').stat().st_size > 8 * 2**20
    run = report.Run(folder)
    loads = [m for name, m in run.metrics.items() if name.endswith('/load')]
    assert len(loads) == 2 * LAYERS
    assert all(2 < len(column.steps) < 40 for column in loads)
    assert run.steps == STEPS
    page = reports.write(folder)
    assert page.stat().st_size < 6 * 2**20
    parsed = Parsed(page.read_text())
    # Of 64 layers eight have maps, texts and tables of their own.
    assert len(parsed.images) < 25
    assert sum(tag == 'details' for tag, _ in parsed.tags) == 2 * 8 + 1
