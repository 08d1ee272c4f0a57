"""Plugins: what is imported, and what is not."""

import importlib.metadata
import sys

import pytest

from moe.config import ConfigError
from moe.config.plugins import import_plugins, import_plugins_of_run


@pytest.fixture
def plugin(tmp_path):
    """A file that counts how often it is run."""
    path = tmp_path / 'counting.py'
    path.write_text(
        'import sys\nsys.plugin_runs = getattr(sys, "plugin_runs", 0) + 1\n'
    )
    yield str(path)
    if hasattr(sys, 'plugin_runs'):
        del sys.plugin_runs


def runs():
    return getattr(sys, 'plugin_runs', 0)


def test_a_file_is_imported_once(plugin):
    import_plugins((plugin,))
    import_plugins([plugin])
    assert runs() == 1


def test_a_module_is_imported(tmp_path, monkeypatch):
    (tmp_path / 'my_package').mkdir()
    (tmp_path / 'my_package' / '__init__.py').touch()
    (tmp_path / 'my_package' / 'my_router.py').write_text('VALUE = 3\n')
    monkeypatch.syspath_prepend(tmp_path)
    import_plugins(('my_package.my_router',))
    assert sys.modules['my_package.my_router'].VALUE == 3


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        (None, 'a file that exists'),
        ('raise RuntimeError("no")', 'RuntimeError: no'),
        ('import no_such_module', 'ModuleNotFoundError'),
        ('import sys; sys.exit(3)', 'SystemExit: 3'),
        ('x = (', 'SyntaxError'),
    ],
)
def test_what_cannot_be_imported_is_one_line(tmp_path, text, reason):
    path = tmp_path / 'broken.py'
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=reason) as error:
        import_plugins((str(path),))
    assert error.value.field == 'config.plugins'
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('names', ['module', 3, (3,)])
def test_names_of_the_wrong_type(names):
    with pytest.raises(ConfigError, match=r'^config\.plugins = '):
        import_plugins(names)


def test_a_run_alone_imports_nothing(plugin, tmp_path):
    run = tmp_path / 'run'
    with pytest.raises(ConfigError, match='--plugins='):
        import_plugins_of_run([plugin], (), run)
    assert runs() == 0
    import_plugins_of_run([plugin], [plugin], run)
    assert runs() == 1


def test_no_file_of_a_run_is_executed(tmp_path, plugin):
    # Not even if the user names it again.
    with pytest.raises(ConfigError, match='never run'):
        import_plugins_of_run([plugin], [plugin], tmp_path)
    assert runs() == 0


def test_an_installed_distribution_may_declare_it(monkeypatch, tmp_path):
    (tmp_path / 'declared.py').write_text('VALUE = 3\n')
    monkeypatch.syspath_prepend(tmp_path)
    entry = importlib.metadata.EntryPoint('any', 'declared', 'moe.plugins')
    monkeypatch.setattr(
        importlib.metadata,
        'entry_points',
        lambda group: [entry] if group == 'moe.plugins' else [],
    )
    import_plugins_of_run(['declared'], (), tmp_path / 'run')
    assert sys.modules['declared'].VALUE == 3
