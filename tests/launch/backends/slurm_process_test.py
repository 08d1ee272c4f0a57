"""One task of a job, started as srun does."""

import os
import signal
import subprocess
import sys
import time

SAYS = 'import sys; print(sys.argv[1:])'


def start(tmp_path, code, *more, rank=0):
    """Starts a task whose child is a line of Python."""
    environment = {
        **os.environ,
        'SLURM_PROCID': str(rank),
        'SLURM_JOB_ID': '5000',
        'SLURM_NTASKS': '3',
        'SLURM_LAUNCH_NODE_IPADDR': '10.0.0.7',
    }
    words = [str(tmp_path / 'mark'), str(tmp_path / 'a'), *more, '--']
    return subprocess.Popen(
        [
            *(sys.executable, '-m', 'launch.backends.slurm_process'),
            *(*words, '-c', code, 'x'),
        ],
        env=environment,
    )


def test_the_child_says_how_it_ends(tmp_path):
    assert start(tmp_path, SAYS).wait() == 0
    assert (tmp_path / 'a' / 'log.txt').read_text() == "['x']\n"
    assert start(tmp_path, 'raise SystemExit(3)', rank=1).wait() == 1
    assert (tmp_path / 'a' / 'log.1.txt').exists()
    assert not (tmp_path / 'mark').exists()


def test_a_process_that_drives_its_node_is_told_of_the_others(tmp_path):
    # 61440 + 5000 modulo 4096: the port of the job.
    assert start(tmp_path, SAYS, '--all', rank=2).wait() == 0
    assert (tmp_path / 'a' / 'log.2.txt').read_text() == (
        "['x', '--coordinator=10.0.0.7:62344', '--processes=3', "
        "'--process=2']\n"
    )


def test_usr2_stops_the_child_and_asks_for_another_start(tmp_path):
    wait = "import time; open('{}', 'w'); time.sleep(60)"
    for rank in (0, 1):
        ready = tmp_path / f'ready{rank}'
        process = start(tmp_path, wait.format(ready), rank=rank)
        while not ready.exists():
            time.sleep(0.02)
        time.sleep(0.2)  # the task takes the signal after the child's start
        process.send_signal(signal.SIGUSR2)
        assert process.wait() == 0
        # The first task alone asks.
        assert (tmp_path / 'mark').exists() == (rank == 0)
        (tmp_path / 'mark').unlink(missing_ok=True)
