"""Compiled programs that another process reads, and when it must not."""

import os
import subprocess
import sys

import jax
import pytest
from jax._src import compilation_cache

from moe import programs
from tests.commands import ROOT

# A grouped product of two experts, compiled as a program of this process or
# read; prints its result and how many programs were read. It gives its argument
# away, as the training step does with its state.
_PROCESS = """
import pathlib, sys
if 'no llvmlite' in sys.argv:
    sys.modules['llvmlite'] = None
import jax, jax.numpy as jnp
from moe import programs
from moe.ops import grouped_matmul, native
reads = []
jax.monitoring.register_event_listener(
    lambda name, **_: reads.append(name) if name.endswith('/cache_hits') else 0
)

def double_product(x):
    w = jnp.array([[[10.0]], [[100.0]]])
    return 2 * grouped_matmul(x, w, jnp.array([1, 2]))

def run():
    reads.clear()
    x = jnp.array([[1.0], [2.0], [3.0]])
    y = jax.jit(double_product, donate_argnums=0)(x)
    print(native.available(), y.ravel().tolist(), x.is_deleted(), len(reads))

programs.keep_programs()
run()
if 'damaged' in sys.argv:
    files = list(programs.folder().iterdir())
    for path, size in zip(files, 2 * len(files) * [0, 40]):
        path.write_bytes(path.read_bytes()[:size])
    for _ in range(2):
        jax.clear_caches()
        run()
"""
RIGHT = [20.0, 400.0, 600.0]


@pytest.fixture(scope='module')
def process(tmp_path_factory):
    """Runs a process of one device; returns the words of its lines."""
    home = tmp_path_factory.mktemp('home')

    def run(*arguments, **environment):
        done = subprocess.run(
            [sys.executable, '-W', 'error', '-c', _PROCESS, *arguments],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={
                **os.environ,
                'JAX_NUM_CPU_DEVICES': '1',
                'JAX_ENABLE_COMPILATION_CACHE': '1',
                'XDG_CACHE_HOME': str(home),
                **environment,
            },
        )
        assert (done.returncode, done.stderr) == (0, '')
        found = []
        for line in done.stdout.splitlines():
            native, *numbers, given_away, reads = line.split()
            numbers = [float(n.strip('[],')) for n in numbers]
            found.append((native, numbers, given_away, int(reads)))
        return found

    return run


def test_another_process_reads_what_one_has_compiled(process):
    [(native, *result, reads)] = process()
    assert (native, *result, reads) == ('True', RIGHT, 'True', 0)
    # The second one gives the kernels to XLA before it reads the program.
    [(native, *result, reads)] = process()
    assert (native, *result) == ('True', RIGHT, 'True')
    assert reads > 0
    # Another program: its key is another, and it is compiled.
    [(native, *result, _)] = process('no llvmlite')
    assert (native, *result) == ('False', RIGHT, 'True')


def test_damaged_programs_are_compiled_anew(process):
    first, damaged, repaired = process('damaged')
    assert first[:3] == damaged[:3] == repaired[:3] == ('True', RIGHT, 'True')
    assert damaged[3] == 0
    assert repaired[3] > 0


def test_a_disk_that_cannot_be_written_is_no_error(process, tmp_path):
    (tmp_path / 'file').touch()
    home = str(tmp_path / 'file')
    [(_, *result, reads)] = process(XDG_CACHE_HOME=home)
    assert (*result, reads) == (RIGHT, 'True', 0)


@pytest.fixture
def one_device(monkeypatch, tmp_path):
    """A process of one device, which may keep programs; its state is put back.

    Returns whether JAX has the cache.
    """
    settings = (
        'jax_enable_compilation_cache',
        'jax_compilation_cache_dir',
        'jax_persistent_cache_min_compile_time_secs',
    )
    before = {name: getattr(jax.config, name) for name in settings}
    device = jax.devices()[0]
    monkeypatch.setattr(jax, 'devices', lambda *_: [device])
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    jax.config.update('jax_enable_compilation_cache', True)
    yield lambda: isinstance(compilation_cache._cache, programs.Cache)
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_on_one_device_programs_are_kept(one_device, tmp_path):
    programs.keep_programs()
    assert one_device()
    assert programs.folder().is_relative_to(tmp_path / 'moe')
    assert programs.folder().stat().st_mode & 0o77 == 0


def test_on_several_cpu_devices_none_is_kept(one_device, monkeypatch):
    device = jax.devices()[0]
    monkeypatch.setattr(jax, 'devices', lambda *_: [device, device])
    programs.keep_programs()
    assert not one_device()


@pytest.mark.parametrize(
    ('setting', 'value'),
    [
        ('jax_enable_compilation_cache', False),
        ('jax_compilation_cache_dir', 'of the user'),
    ],
)
def test_settings_of_the_user_hold(one_device, setting, value):
    jax.config.update(setting, value)
    programs.keep_programs()
    assert not one_device()
    assert getattr(jax.config, setting) == value


def test_a_folder_that_others_may_write_is_not_read(one_device):
    folder = programs.folder()
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    programs.keep_programs()
    assert not one_device()


def test_a_relative_cache_home_is_ignored(monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', 'relative')
    monkeypatch.setenv('HOME', str(tmp_path))
    inside = programs.folder().relative_to(tmp_path)
    assert inside.parts[:3] == ('.cache', 'moe', 'programs')


def test_processors_have_folders_of_their_own():
    kinds = {programs.kind(p) for p in ('avx2', 'avx2 avx512f', 'avx2\n4')}
    assert len(kinds) == 3
    assert programs.kind('avx2') == programs.kind('avx2')


def test_the_processor_is_described():
    text = programs.processor()
    assert text == programs.processor()
    assert str(len(os.sched_getaffinity(0))) in text.splitlines()


def test_what_is_put_is_what_is_read(tmp_path):
    cache = programs.Cache(tmp_path)
    assert cache.get('key') is None
    long = 'a name longer than a file may have' * 20
    cache.put('key', b'program')
    cache.put(long, b'')
    assert programs.Cache(tmp_path).get('key') == b'program'
    assert programs.Cache(tmp_path).get(long) == b''


@pytest.mark.parametrize('content', [b'', b'short', 40 * b'x'])
def test_a_file_that_is_not_whole_is_removed(tmp_path, content):
    cache = programs.Cache(tmp_path)
    cache.put('key', b'program')
    [path] = tmp_path.iterdir()
    path.write_bytes(content)
    assert cache.get('key') is None
    assert list(tmp_path.iterdir()) == []


def test_the_oldest_programs_make_room(tmp_path):
    # A program of 68 bytes has a sum of 32 before it: two fit in 250 bytes.
    cache = programs.Cache(tmp_path, max_bytes=250)
    for i, key in enumerate('ab'):
        cache.put(key, 68 * key.encode())
        for path in tmp_path.iterdir():
            if path.read_bytes().endswith(key.encode()):
                os.utime(path, (i, i))
    assert cache.get('a') is not None  # read last
    cache.put('c', 68 * b'c')
    assert [cache.get(key) is None for key in 'abc'] == [False, True, False]


def test_a_folder_that_is_gone_is_no_error(tmp_path):
    cache = programs.Cache(tmp_path / 'absent')
    cache.put('key', b'program')
    assert cache.get('key') is None
