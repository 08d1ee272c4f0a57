"""`train.py` in several processes, on the loopback of this machine."""

import re
import socket
import subprocess
import sys
import time

from tests.commands import ROOT, Result


class Started:
    """Processes of one run, which end with the block.

    Args:
      folder: for what they print.
      lines: the arguments of each.
      environment: of all of them.
      cwds: the folder each starts in; None for the repository's.
      program: what Python runs.
    """

    def __init__(self, folder, lines, environment, cwds=None, program=None):
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            coordinator = f'127.0.0.1:{free.getsockname()[1]}'
        folder.mkdir()
        environment = {
            **environment,
            'JAX_NUM_CPU_DEVICES': str(8 // len(lines)),
            'PYTHONPATH': str(ROOT),
        }
        program = program or [str(ROOT / 'train.py')]
        self._files, self.processes = [], []
        for i, line in enumerate(lines):
            line = [*map(str, line), f'--coordinator={coordinator}']
            line += [f'--processes={len(lines)}', f'--process={i}']
            files = [folder / f'{i}.{end}' for end in ('out', 'err')]
            with files[0].open('w') as out, files[1].open('w') as err:
                started = subprocess.Popen(
                    [sys.executable, *program, *line],
                    cwd=cwds[i] if cwds else ROOT,
                    env=environment,
                    stdout=out,
                    stderr=err,
                )
            self._files.append(files)
            self.processes.append(started)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()

    def wait_for(self, pattern):
        """Until the first process prints it; returns what was found."""
        return self._until(
            lambda: re.search(pattern, self._files[0][0].read_text()), 300
        )

    def end(self, seconds=300):
        """Until all have ended; returns the Results."""
        self._until(
            lambda: all(p.poll() is not None for p in self.processes), seconds
        )
        # The collectives' library prints to stdout, of who is connected, from
        # all threads at once.
        words = r'\[Gloo\]|peer ranks|waits for (all at|process)'
        noise = rf'(?m)^(.*({words}).*|[ \d]*)\n'
        return [
            Result(
                process.returncode,
                re.sub(noise, '', out.read_text()),
                err.read_text(),
            )
            for process, (out, err) in zip(
                self.processes, self._files, strict=True
            )
        ]

    def _until(self, done, seconds):
        deadline = time.monotonic() + seconds
        while not (found := done()):
            printed = [
                file.read_text() for pair in self._files for file in pair
            ]
            ended = [p.poll() for p in self.processes]
            assert time.monotonic() < deadline, (ended, printed)
            time.sleep(0.05)
        return found
