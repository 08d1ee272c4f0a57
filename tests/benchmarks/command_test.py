"""`python -m benchmarks`: suites at their small sizes, and refusals."""

import json

import pytest

from tests import commands

pytestmark = pytest.mark.slow


def run(tmp_path, *lines):
    """Runs command lines; returns the Results, and the lines they wrote."""
    given = [
        [*line, '--size=small', '--rounds=1', f'--json={tmp_path}/{i}.jsonl']
        for i, line in enumerate(lines)
    ]
    results = commands.run_all(
        'benchmarks.__main__', given, tmp_path, seconds=400
    )
    written = [
        [json.loads(text) for text in path.read_text().splitlines()]
        if (path := tmp_path / f'{i}.jsonl').exists()
        else []
        for i in range(len(lines))
    ]
    return list(zip(results, written, strict=True))


def test_suites_and_refusals(tmp_path):
    layer, memory, gpu, unknown, experts = run(
        tmp_path,
        ['layer'],
        ['memory'],
        ['gpu'],
        ['lear'],
        ['layer', '--experts=a'],
    )
    check_layer(*layer)
    check_memory(*memory)
    assert gpu[0].code == 3
    assert gpu[0].err.startswith('benchmarks: gpu: not run: JAX finds no')
    assert gpu[1] == []
    assert unknown[0].code == experts[0].code == 2
    assert "suite = 'lear': must be one of layer, step" in unknown[0].err
    assert "--experts = 'a': must be numbers" in experts[0].err


def check_layer(result, lines):
    assert result.code == 0, result.err
    assert '| grouped, dropless | zipf |' in result.out
    names = {line['case'] for line in lines}
    assert names >= {
        'copy of memory',
        'dense (XLA)',
        'dense (PyTorch)',
        'grouped, dropless',
        'indexed, capacity 1.25',
        'onehot, capacity 1.25',
        'JAX ragged_dot',
        'PyTorch loop over experts',
        'transformers grouped_mm',
        'limit: dense',
        'limit: dense and weights in memory',
    }
    loads = [x['load'] for x in lines if x['case'] == 'grouped, dropless']
    assert loads == ['balanced', 'half', 'zipf']
    for line in lines:
        assert 'milliseconds' in line or 'not installed' in line['not_run']
        if 'rows' in line:
            rows = line['rows']
            assert rows['useful'] + rows['dropped'] == 512 * 2
        assert line['command'].startswith('python -m benchmarks layer --size')


def check_memory(result, lines):
    assert result.code == 0, result.err
    # 1,024 rows of 32 + 2 * 32 numbers of 4 bytes are 3/8 MiB.
    assert {line['least_mib'] for line in lines} == {0.4}
    found = {line['case']: line['temporaries_over_least'] for line in lines}
    assert found['dense (XLA)'] >= 2 / 3  # both hidden products
    assert found['onehot, capacity 1.25'] > found['grouped, dropless']


def test_dry_run(tmp_path):
    [(result, lines)] = run(tmp_path, ['gpu', '--dry_run'])
    assert result.code == 0, result.err
    models = {line['model'] for line in lines if 'model' in line}
    assert {name.split()[0].rstrip(',') for name in models} == {
        'Mixtral',
        'OLMoE',
        'Qwen3',
        'DeepSeek-V3',
    }
    # Seven layers of JAX and four peers of each, and two steps.
    assert len(lines) == 4 * (7 + 4) + 2
    assert all('lowered' in line for line in lines)
    assert all('failed' not in line for line in lines)


@pytest.mark.long
def test_all_other_suites(tmp_path):
    suites = ('step', 'generation', 'scaling', 'devices', 'compile', 'startup')
    for name, (result, lines) in zip(
        suites, run(tmp_path, *([s] for s in suites)), strict=True
    ):
        assert result.code == 0, result.err
        assert lines, name
        assert {line['suite'] for line in lines} == {name}
        for line in lines:
            assert 'milliseconds' in line or 'not installed' in line['not_run']
