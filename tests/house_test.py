"""Rules of the code: layers, file sizes, mirrored tests, no local paths.

A package imports only from layers below it; see
`docs/explanation/architecture.md`.
"""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent

# Package, or single module -> its layer. It imports only from layers below;
# those of layer 0 may import each other.
LAYERS = {
    'moe.capacity': 0,
    'moe.command_line': 0,
    'moe.config': 0,
    'moe.disk': 0,
    'moe.files': 0,
    'moe.images': 0,
    'moe.losses': 0,
    'moe.metrics': 0,
    'moe.ops': 0,
    'moe.parameters': 0,
    'moe.paths': 0,
    'moe.pool': 0,
    'moe.programs': 0,
    'moe.progress': 0,
    'moe.sinks': 0,
    'moe.stats': 0,
    'moe.totals': 0,
    'moe.traits': 0,
    'moe.types': 0,
    'moe.dispatch': 1,
    'moe.routing': 1,
    'moe.experts': 2,
    'moe.parallel': 2,
    'moe.layers': 3,
    'moe.interop': 4,
    'moe.models': 4,
    'moe.report': 5,
    'moe.training': 5,
    'moe.workloads': 6,
    'configs': 7,
    'moe.checkpoints': 8,
    'moe.convert_images': 7,
    'moe.evaluate': 7,
    'moe.predict': 7,
    'moe.report.__main__': 7,
    'moe.sample': 7,
    'moe.tokenize': 7,
    'benchmarks': 8,
    'examples': 8,
    'launch': 8,
    'train': 8,
}
OURS = (
    'moe',
    'configs',
    'benchmarks',
    'examples',
    'launch',
    'train',
    'tests',
)


def sources(*folders):
    """Every Python file of folders or files of the repository."""
    for folder in folders:
        path = ROOT / folder
        found = [path] if path.suffix else sorted(path.rglob('*.py'))
        yield from (p for p in found if '__pycache__' not in p.parts)


def module(path):
    """Dotted name of a file."""
    parts = path.relative_to(ROOT).with_suffix('').parts
    return '.'.join(p for p in parts if p != '__init__')


def package(name):
    """The package a module is in, None if in none, such as `moe` itself."""
    parts = name.split('.')
    for size in (3, 2, 1):
        if '.'.join(parts[:size]) in LAYERS:
            return '.'.join(parts[:size])
    return None


def imports(tree):
    """Names of the modules that a file imports, wherever it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'line {node.lineno}: relative import'
            # `from moe import losses` imports the module moe.losses.
            names = [f'{node.module}.{alias.name}' for alias in node.names]
            yield from (n if package(n) else node.module for n in names)


def allowed(importer, imported):
    """Whether a package may import from another."""
    if importer == imported:
        return True
    low, high = LAYERS[imported], LAYERS[importer]
    return low < high or low == high == 0


def test_rule_of_the_layers():
    # The rule itself, on imports that it must tell apart.
    assert allowed('moe.layers', 'moe.routing')
    assert allowed('moe.stats', 'moe.losses')
    assert allowed('moe.training', 'moe.training')
    assert not allowed('moe.routing', 'moe.layers')
    assert not allowed('moe.routing', 'moe.dispatch')
    assert not allowed('moe.report', 'moe.training')
    assert not allowed('moe.training', 'moe.report')
    tree = ast.parse('from moe import types, losses\nimport moe.config as c')
    found = {package(name) for name in imports(tree)}
    assert found == {'moe.types', 'moe.losses', 'moe.config'}


@pytest.mark.parametrize(
    'path',
    list(sources('moe', 'benchmarks', 'examples', 'launch', 'train.py')),
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_imports_only_from_layers_below(path):
    name = module(path)
    if name == 'moe':
        # Only when its function is called: `import moe` loads nothing else.
        tree = ast.parse(path.read_text())
        later = [n for n in tree.body if isinstance(n, ast.FunctionDef)]
        tree.body = [node for node in tree.body if node not in later]
        assert list(imports(tree)) == []
        return
    importer = package(name)
    assert importer is not None, f'{name} is in no layer'
    for imported in imports(ast.parse(path.read_text())):
        if imported == 'moe':
            continue  # whose module imports nothing, see above
        if imported.split('.')[0] in OURS:
            # `moe` itself is what `moe.load` needs.
            other = package('moe.workloads' if imported == 'moe' else imported)
            assert other is not None, f'{imported} is in no layer'
            assert allowed(importer, other), f'{name} imports {imported}'


def test_files_are_under_400_lines():
    lengths = {
        str(p.relative_to(ROOT)): len(p.read_text().splitlines())
        for p in sources(*(f for f in OURS if f != 'train'), 'train.py')
    }
    assert len(lengths) > 50
    assert {p: n for p, n in lengths.items() if n >= 400} == {}


def test_every_module_has_its_tests():
    # moe/X/y.py is tested in tests/X/y_test.py.
    missing = []
    for path in sources('moe'):
        if path.stem in ('__init__', '__main__'):
            continue
        inside = path.relative_to(ROOT / 'moe')
        test = ROOT / 'tests' / inside.with_name(f'{inside.stem}_test.py')
        if not test.exists():
            missing.append(str(test.relative_to(ROOT)))
    assert missing == []
    assert (ROOT / 'tests' / 'train_test.py').exists()


def test_every_oracle_stands_alone():
    # What checks the library imports nothing of it.
    for path in sources('tests/reference'):
        if path.stem.endswith('_test'):
            continue
        for imported in imports(ast.parse(path.read_text())):
            assert imported.split('.')[0] not in ('moe', 'jax', 'flax'), path


def test_nothing_that_is_read_is_executed():
    # Modules and functions by which a file becomes code. Config files and
    # plugins, which the user names, go through importlib.
    modules = {'pickle', 'cloudpickle', 'dill', 'joblib', 'marshal', 'shelve'}
    names = {'eval', 'exec', 'compile', '__import__', 'unsafe_load', 'system'}
    found = []
    for path in sources('moe', 'launch', 'train.py'):
        tree = ast.parse(path.read_text())
        found += [i for i in imports(tree) if i.split('.')[0] in modules]
        for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
            *owner, name = ast.unparse(call.func).split('.')
            given = {k.arg: ast.unparse(k.value) for k in call.keywords}
            if owner in ([], ['os'], ['builtins'], ['yaml']) and name in names:
                found.append(f'{path}:{call.lineno}: {name}')
            if owner == ['yaml'] and name in ('load', 'load_all', 'full_load'):
                found.append(f'{path}:{call.lineno}: yaml.{name}')
            if given.get('allow_pickle', 'False') != 'False':
                found.append(f'{path}:{call.lineno}: allow_pickle')
            if given.get('shell', 'False') != 'False':
                found.append(f'{path}:{call.lineno}: shell')
    assert found == []


def test_no_paths_of_one_machine():
    # A path into somebody's home, or where only one machine has anything.
    local = re.compile(r'[\s"\'=(`](/(home|root|tmp|work|Users|mnt|opt)/\w+)')
    assert local.search('cd /home/' + 'someone')
    texts = ['*.py', '*.md', '*.toml', '*.txt', '*.yaml', '*.yml', '*.sh']
    folders = [*(f for f in OURS if f != 'train'), 'docs', '.ci', '.github']
    files = [p for f in folders for t in texts for p in (ROOT / f).rglob(t)]
    files += [p for t in [*texts, 'Makefile'] for p in ROOT.glob(t)]
    found = {
        str(path.relative_to(ROOT)): local.search(path.read_text()).group(1)
        for path in files
        if local.search(path.read_text())
    }
    assert len(files) > 60
    assert found == {}
