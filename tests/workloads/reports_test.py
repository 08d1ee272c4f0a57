"""The report command, and pages with what each workload adds."""

import json

import pytest

from moe.report import Run, Sections
from moe.report.__main__ import main
from moe.workloads import reports
from tests.report import runs

pytestmark = pytest.mark.slow


def written(folder, workload):
    """A run of a workload, with the files that its report shows."""
    runs.write(folder, workload=workload)
    (folder / 'confusion.json').write_text('[[1, 0], [0, 1]]')
    (folder / 'results.json').write_text('{"income/auc": 0.5}')
    return folder


HEADINGS = {
    'lm': 'Tokens by expert',
    'vision': 'Accuracy by class',
    'multitask': 'On the test rows',
}


@pytest.mark.parametrize('workload', HEADINGS)
def test_sections_are_those_of_the_workload(tmp_path, workload):
    text = reports.write(written(tmp_path / 'run', workload)).read_text()
    shown = {heading for heading in HEADINGS.values() if heading in text}
    assert shown == {HEADINGS[workload]}


def test_run_of_an_unknown_workload_has_the_generic_page(tmp_path):
    folder = written(tmp_path / 'run', 'ours')
    assert reports.sections_of(Run(folder)) == Sections()
    assert 'Loss, without' in reports.write(folder).read_text()
    assert reports.summary(folder).startswith('validation: 1.5000 bits/byte')


def test_command(tmp_path, capsys):
    folder = runs.write(tmp_path / 'one', sample='one\ntwo')
    assert main(['report', str(folder)]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        'validation: 1.5000 bits/byte, loss 1.5000',
        'largest load: 2.25 times uniform, in layer 3',
        'sample:',
        '    one',
        '    two',
        f'report: {folder}/report/index.html',
    ]
    assert err == ''
    assert main(['report']) == 2
    assert capsys.readouterr().err.startswith('usage: python -m moe.report')


@pytest.mark.parametrize('missing', ['config.json', 'metrics.jsonl', None])
def test_folder_without_a_run_is_told_in_one_line(tmp_path, capsys, missing):
    folder = tmp_path / 'empty'
    if missing:
        runs.write(folder)
        (folder / missing).unlink()
    good = runs.write(tmp_path / 'good')
    for folders in ([folder], [good, folder]):
        assert main(['report', *map(str, folders)]) == 2
        out, err = capsys.readouterr()
        assert out == ''
        (line,) = err.splitlines()
        assert line.startswith('moe.report: workdir = ')
        assert (missing or 'config.json') in line
    assert not (good / 'report').exists()


def test_run_without_a_logged_step(tmp_path, capsys):
    # Stopped before its first line of metrics.
    folder = runs.write(tmp_path / 'empty', metrics=[])
    assert main(['report', str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('moe.report: workdir = ')


def test_unknown_flag_is_told_in_one_line(tmp_path, capsys):
    folder = runs.write(tmp_path / 'one')
    assert main(['report', str(folder), '--plugin=x']) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert 'nearest: --plugins' in line


def test_plugins_of_a_run_are_imported_if_named_again(tmp_path, capsys):
    # A run's folder alone does not make its plugins trusted.
    plugin = tmp_path / 'plugin.py'
    plugin.write_text(
        'import pathlib\nBESIDE = pathlib.Path(__file__)\n'
        "BESIDE.with_suffix('.ran').touch()\n"
    )
    folder = runs.write(tmp_path / 'run', plugins=[str(plugin)])
    assert json.loads((folder / 'config.json').read_text())['plugins']
    assert main(['report', str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f'--plugins={plugin}' in line
    assert not plugin.with_suffix('.ran').exists()
    assert main(['report', str(folder), f'--plugins={plugin}']) == 0
    assert plugin.with_suffix('.ran').exists()
