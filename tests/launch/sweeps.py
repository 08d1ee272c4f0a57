"""Sweeps of the smallest runs, as files."""

import pathlib

from tests import tiny

# No text at the end, which takes a program of its own to make.
QUICK = {
    'model.num_layers': 1,
    'sample_length': 0,
    'steps': 3,
    'checkpoint_every': 3,
}


def write(folder: pathlib.Path, text: str, changes=None) -> str:
    """Writes a config file with a small run and the sweep in `text`."""
    folder.mkdir(exist_ok=True)
    files = tiny.write_corpus(folder / 'corpus')
    plain = tiny.plain({'data.source.files': files, **QUICK, **(changes or {})})
    path = tiny.write_config(folder / 'config.py', plain)
    path.write_text(f'{path.read_text()}\n\n{text}\n')
    return str(path)


def of_list(trials) -> str:
    """The text of a sweep with these trials."""
    return f'def sweep():\n    yield from {trials!r}\n'
