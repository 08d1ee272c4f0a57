"""Commands of the pages: what they print, and whether they are well-formed."""

import os

import pytest

from tests import commands, tiny
from tests.docs import blocks

pytestmark = pytest.mark.slow

# Programs that are not ours, and shell; their lines are not run.
OTHERS = {
    'docker',
    'for',
    'gcloud',
    'gcluster',
    'kubectl',
    'make',
    'pip',
    'python',
    'sky',
    'tail',
    'xpk',
    '~/venv/bin/python',
}
# Folders that the pages suppose a reader has.
CORPUS, IMAGES = 'texts', 'photos'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """The files of all pages in one folder."""
    folder = blocks.make_folder(tmp_path_factory.mktemp('pages'))
    for page in blocks.PAGES:
        blocks.write_files(page, folder)
    tiny.write_corpus(folder / CORPUS)
    (folder / IMAGES).mkdir()
    return folder


def found(with_output):
    """The commands of all pages, or those alone whose output is shown."""
    every = (c for page in blocks.PAGES for c in blocks.commands(page))
    return [c for c in every if (c.output is not None) == with_output]


def run(mode, given, folder, tmp_path):
    """Runs or reads commands; yields pairs of them and their Results."""
    environments = {tuple(c.environment.items()) for c in given}
    for environment in sorted(environments):
        those = [
            c for c in given if tuple(c.environment.items()) == environment
        ]
        results = commands.run_all(
            'tests.docs.server',
            [[mode, c.module, *c.arguments] for c in those],
            tmp_path,
            env={**os.environ, **dict(environment)},
            cwd=folder,
        )
        yield from zip(those, results, strict=True)


def test_what_is_shown_is_what_is_printed(folder, tmp_path):
    shown = found(with_output=True)
    assert len(shown) >= 10
    wrong = [
        f'{command.place}: {command.line}\n{result.out}{result.err}'
        for command, result in run('run', shown, folder, tmp_path)
        if not blocks.matches(command.output, result.out + result.err)
    ]
    assert not wrong, '\n'.join(wrong)


def test_other_commands_are_well_formed(folder, tmp_path):
    ours = []
    for command in found(with_output=False):
        if command.module is None:
            assert command.words[0] in OTHERS or command.environment, command
        elif '…' not in command.line:
            ours.append(command)
    assert len(ours) >= 25
    wrong = [
        f'{command.place}: {command.line}\n{result.err}'
        for command, result in run('read', ours, folder, tmp_path)
        if result.code
    ]
    assert not wrong, '\n'.join(wrong)
