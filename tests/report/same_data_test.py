"""Whether runs that are compared were on the same data."""

import json

import pytest

from moe.report.same_data import different_data


@pytest.fixture
def folders(tmp_path):
    """Runs a and b on one text, c on another, and one without data."""
    found = {}
    for name, fingerprint in {'a': '1f', 'b': '1f', 'c': '2e', 'd': ''}.items():
        found[name] = tmp_path / name
        found[name].mkdir()
        if fingerprint:
            described = {'train_bytes': 3, 'fingerprint': fingerprint}
            (found[name] / 'data.json').write_text(json.dumps(described))
    return found


def test_different(folders):
    assert different_data(folders) == (
        'These runs are on different data, or on other splits: a, b on 1f; '
        'c on 2e.'
    )


def test_the_same(folders):
    del folders['c']
    assert different_data(folders) == ''
