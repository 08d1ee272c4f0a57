"""A run of 20,000 steps: memory, open files and time of a step stay flat."""

import pathlib
import time

import numpy as np
import pytest

from moe.metrics import newest_metrics, read_metrics
from tests import tiny
from tests.faults.driver import Driver

pytestmark = [pytest.mark.slow, pytest.mark.long]

STEPS = 20_000
CHANGES = {
    'steps': STEPS,
    'model.num_layers': 1,
    'model.moe_every': 0,
    'sample_length': 0,
    'log_every': 100,
    'eval_every': 1000,
    'checkpoint_every': 500,
    'keep_checkpoints': 2,
}


def look(process, folder):
    """Step, MB of memory, open files, files of checkpoints; None at the end."""
    proc = pathlib.Path('/proc') / str(process)
    if '(zombie)' in (proc / 'status').read_text():
        return None
    try:
        step = newest_metrics(folder / 'metrics.jsonl').get('step', 0)
        pages = int((proc / 'statm').read_text().split()[1])
        files = len(list((proc / 'fd').iterdir()))
        kept = len(list((folder / 'checkpoints').iterdir()))
    except OSError:  # not yet begun
        return 0, 0, 0, 0
    return step, pages * 4096 / 1e6, files, kept


def test_soak(tmp_path):
    plain = tiny.plain(
        {**CHANGES, 'data.source.files': tiny.write_corpus(tmp_path / 'text')}
    )
    config = tiny.write_config(tmp_path / 'config.py', plain)
    folder, log = tmp_path / 'run', tmp_path / 'log'
    with tiny.kept_programs(tmp_path / 'programs') as environment:
        driver = Driver({**environment, 'JAX_NUM_CPU_DEVICES': '1'})
        arguments = [f'--config={config}', f'--workdir={folder}']
        process, seen = driver.start(arguments, log), []
        while (now := look(process, folder)) is not None:
            seen.append(now)
            time.sleep(1)
        assert driver.wait(process) == 0, log.read_text()
        driver.close()
    found = np.array(seen, float)
    table = []
    for first in range(0, STEPS, STEPS // 10):
        last = first + STEPS // 10
        inside = found[(found[:, 0] > first) & (found[:, 0] <= last)]
        speeds = [
            m['train/tokens_per_second']
            for m in read_metrics(folder / 'metrics.jsonl')
            if first < m['step'] <= last and 'train/tokens_per_second' in m
        ]
        milliseconds = 1000 * 8 * 16 / np.median(speeds)
        table.append((last, *np.median(inside[:, 1:], axis=0), milliseconds))
        print('| {:,} | {:.1f} | {:.0f} | {:.0f} | {:.2f} |'.format(*table[-1]))
    _, memory, files, kept, times = np.array(table).T
    # From the second tenth on: the first makes and compiles.
    assert memory[-1] < 1.05 * memory[1]
    assert files[-1] <= files[1] + 2
    assert kept[-1] <= kept[1] + 1
    assert times[-1] < 1.5 * np.median(times)
