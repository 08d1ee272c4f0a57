"""Runs through kills and full disks end as if nothing had happened.

After every fault the same command goes on until the run is over. Its parameters
and moments, and its metrics, then equal those of a run without faults bit for
bit. A few faults are in `make test`; `make test-long` puts one at every write.
"""

import os
import random
import socket
from typing import NamedTuple

import pytest

from moe.metrics import read_metrics
from moe.training import history
from tests import tiny
from tests.faults.driver import Driver
from tests.training.written import repeatable

pytestmark = pytest.mark.slow

KILLED = -9
CHANGES = {
    'steps': 6,
    'model.num_layers': 1,
    'model.moe_every': 0,
    'sample_length': 0,
    'eval_every': 3,
    'checkpoint_every': 2,
    'keep_checkpoints': 2,
    'mesh.data': -1,
}


class Bench:
    """Runs of one config, of one process or of two, in folders of their own."""

    def __init__(self, folder, driver, config, processes=1):
        self._folder, self._driver = folder, driver
        self._config, self._count = config, processes
        self._number = 0
        folder.mkdir()
        run = self.run()
        assert run.go_on() == [0] * processes, run.printed()
        self.writes = run.writes()
        self.desired = run.results()

    def run(self):
        """A run that has not begun."""
        self._number += 1
        return Run(
            self._folder / f'run{self._number}',
            self._driver,
            self._config,
            self._count,
        )


class Run(NamedTuple):
    """A run in its folder, from one start to the next."""

    folder: object
    driver: Driver
    config: object
    processes: int

    def go_on(self, *faults):
        """Starts all processes; returns their exit codes.

        Args:
          *faults: of each process, as `driver.child` takes it; the others
            have none.
        """
        arguments = [f'--config={self.config}', f'--workdir={self.folder}']
        started = []
        if self.processes > 1:
            with socket.socket() as free:
                free.bind(('127.0.0.1', 0))
                port = free.getsockname()[1]
            arguments += [f'--coordinator=127.0.0.1:{port}']
            arguments += [f'--processes={self.processes}']
        for i in range(self.processes):
            own = [f'--process={i}'] if self.processes > 1 else []
            fault = faults[i] if i < len(faults) else {}
            log = self.folder.with_suffix(f'.log{i}')
            started.append(self.driver.start([*arguments, *own], log, **fault))
        return [self.driver.wait(process) for process in started]

    def finish(self):
        """Goes on without faults, which must do."""
        codes = self.go_on()
        assert codes == [0] * self.processes, self.printed()

    def printed(self):
        return self.folder.with_suffix('.log0').read_text()

    def writes(self):
        """How many calls that write the first process made."""
        return int(self.folder.with_suffix('.log0.count').read_text())

    def results(self):
        """All that must be the same: hash of the state, and the metrics."""
        return self.folder.with_suffix('.hash').read_text(), [
            repeatable(m) for m in read_metrics(self.folder / 'metrics.jsonl')
        ]


@pytest.fixture(scope='module')
def make(tmp_path_factory):
    """Makes the bench for a number of processes, once for all tests."""
    base, made = tmp_path_factory.mktemp('faults'), {}
    plain = tiny.plain(
        {**CHANGES, 'data.source.files': tiny.write_corpus(base / 'corpus')}
    )
    config = tiny.write_config(base / 'config.py', plain)
    with tiny.kept_programs(base / 'programs') as environment:
        environment = {**environment, 'JAX_NUM_CPU_DEVICES': '1'}
        driver = Driver(environment)

        def bench(processes=1):
            if processes not in made:
                folder = base / str(processes)
                made[processes] = Bench(folder, driver, config, processes)
            return made[processes]

        yield bench
        driver.close()


def check_same(run, bench):
    """The run is over, as one without faults, and nothing is left behind."""
    assert run.results() == bench.desired
    assert history.read(run.folder)[-1]['event'] == 'finished'
    left = [name for name in os.listdir(run.folder) if name.endswith('.new')]
    assert left == []
    assert (run.folder / 'report' / 'index.html').exists()
    assert not (run.folder / 'run.lock').exists()


def kill_at(bench, write, again):
    """Kills a run inside a write, and inside one when it goes on."""
    run = bench.run()
    codes = [run.go_on({'kind': 'kill', 'at': at})[0] for at in (write, again)]
    assert set(codes) <= {KILLED, 0}, run.printed()
    run.finish()
    check_same(run, bench)
    return codes.count(KILLED)


def full_at(bench, write):
    """The disk is full from a write on, until there is space again."""
    run = bench.run()
    (code,) = run.go_on({'kind': 'full', 'at': write})
    check_told(run, code)
    run.finish()
    check_same(run, bench)
    return code == 1


def check_told(run, code):
    """One line says that there is no space."""
    text = run.printed()
    assert code == 1, text
    assert text.splitlines()[-1].startswith('train.py: ')
    assert 'No space left on device' in text or 'File too large' in text
    assert 'Traceback' not in text, text


def test_killed_inside_a_write(make):
    bench = make()
    assert bench.writes > 50
    assert kill_at(bench, bench.writes // 3, 12) == 2


def test_full_disk(make):
    bench = make()
    assert full_at(bench, bench.writes // 2)


@pytest.mark.long
def test_killed_inside_every_write(make):
    bench, kills = make(), 0
    for write in range(1, bench.writes + 1):
        kills += kill_at(bench, write, 1 + 7 * write % 40)
    print(f'{bench.writes} writes, {kills} kills inside writes')
    assert kills > bench.writes


@pytest.mark.long
def test_killed_at_random(make):
    bench, draw, kills = make(), random.Random(0), 0
    while kills < 50:
        run = bench.run()
        for _ in range(2):
            (code,) = run.go_on({'after': draw.uniform(0, 4)})
            kills += code == KILLED
        run.finish()
        check_same(run, bench)
    print(f'{kills} kills at random')


@pytest.mark.long
def test_one_or_both_of_two_killed(make):
    bench, draw, kills = make(2), random.Random(0), 0
    while kills < 50:
        run = bench.run()
        first, second = draw.choice([(0, 0), (0, None), (None, 0)])
        faults = []
        for chosen in (first, second):
            at = draw.randrange(1, bench.writes)
            after = draw.uniform(0, 6)
            how = draw.choice([{'kind': 'kill', 'at': at}, {'after': after}])
            faults.append({} if chosen is None else how)
        codes = run.go_on(*faults)
        kills += codes.count(KILLED)
        assert codes == [0, 0] or all(codes), codes
        run.finish()
        check_same(run, bench)
    print(f'{kills} kills of two processes')


@pytest.mark.long
def test_full_disk_at_every_write(make):
    bench = make()
    full = sum(full_at(bench, n) for n in range(1, bench.writes - 2))
    print(f'{full} times a full disk')


@pytest.mark.long
@pytest.mark.parametrize('limit', [2**k for k in range(12, 20)])
def test_limit_of_the_size_of_files(make, limit):
    # Native code meets this one, too.
    bench = make()
    run = bench.run()
    (code,) = run.go_on({'limit': limit})
    if code:
        check_told(run, code)
    run.finish()
    check_same(run, bench)
