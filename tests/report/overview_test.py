"""The head of a page: facts of the runs, and how their configs differ."""

import json

from moe.report import plots
from tests.report import runs
from tests.report.page_test import overview, page


def test_facts_of_the_history(tmp_path):
    # Of the newest start; an older run, without them, has no such rows.
    folder = runs.write(tmp_path / 'one')
    events = [
        {'event': 'started', 'parameters': 5, 'commit': 20 * 'ab' + '+'},
        {'event': 'resumed', 'parameters': 5000, 'active': 3, 'devices': 'x'},
        {'event': 'finished', 'command': 'no <command>'},
    ]
    lines = [json.dumps(event) for event in events] + ['{"event": "br']
    (folder / 'history.jsonl').write_text('\n'.join(lines))
    text, parsed = page(folder)
    found = overview(parsed)['one']
    assert found['parameters'] == '5,000'
    assert found['active parameters'] == '3'
    assert found['commit'] == 6 * 'ab' + '+'
    assert found['devices'] == 'x'
    command = '<summary>Command</summary><pre>no &lt;command&gt;</pre>'
    assert command in text


def test_fields_that_differ(tmp_path, monkeypatch):
    # Of runs of two workloads; a name may have a dot itself.
    monkeypatch.setattr(plots, 'curves', lambda *args, **options: None)
    monkeypatch.setattr(plots, 'expert_map', lambda *args: None)
    one = runs.write(tmp_path / 'a', data={'source': {'a.b': 1, 'c': 2}})
    two = runs.write(
        tmp_path / 'b', workload='vision', data={'source': {'a.b': 3, 'c': 2}}
    )
    text, parsed = page(one, two)
    start = parsed.rows.index(['field', 'a', 'b'])
    assert parsed.rows[start + 1 : start + 3] == [
        ['data.source.a.b', '1', '3'],
        ['workload', 'lm', 'vision'],
    ]
    same, _ = page(
        one,
        runs.write(tmp_path / 'c' / 'a', data={'source': {'a.b': 1, 'c': 2}}),
    )
    assert 'Fields that differ' in text
    assert 'Fields that differ' not in same
