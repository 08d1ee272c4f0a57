"""Where the kernels cannot be built, the products go on without them."""

import sys

import jax
import jax.numpy as jnp
import pytest

from moe.ops import grouped_matmul, native
from moe.ops.native import build


def product():
    x, w = jnp.array([[1.0], [2.0]]), jnp.array([[[10.0]], [[100.0]]])
    return grouped_matmul(x, w, jnp.array([1, 1])).ravel().tolist()


@pytest.fixture(autouse=True)
def asked_again():
    native.available.cache_clear()
    yield
    native.available.cache_clear()


@pytest.fixture
def register(monkeypatch):
    """`register` without what it did before."""
    monkeypatch.setattr(build, 'register', build.register.__wrapped__)
    return build.register


def test_here_they_are_available():
    assert native.available()
    assert product() == [10.0, 200.0]


def test_without_llvmlite(monkeypatch):
    monkeypatch.setitem(sys.modules, 'moe.ops.native.build', None)
    assert not native.available()
    assert product() == [10.0, 200.0]


@pytest.mark.parametrize('text', ['', 'XLA_FFI_API_MAJOR 1'])
def test_with_an_unknown_interface(monkeypatch, register, tmp_path, text):
    header = tmp_path / 'include/xla/ffi/api/c_api.h'
    header.parent.mkdir(parents=True)
    header.write_text(f'#define {text}\n#define XLA_FFI_API_MINOR 3\n')
    monkeypatch.setattr(build.jaxlib, '__file__', str(tmp_path / 'x.py'))
    with pytest.raises(build.Unsupported, match='version'):
        register()
    assert not native.available()
    assert product() == [10.0, 200.0]


def test_on_an_unknown_processor(monkeypatch, register):
    monkeypatch.setattr(build, 'features', lambda: {'sse2': True})
    with pytest.raises(build.Unsupported, match='processor'):
        register()
    assert not native.available()


def test_for_another_platform_none_is_built(monkeypatch):
    device = jax.sharding.AbstractDevice('TPU v5', 1, 'tpu')
    mesh = jax.sharding.AbstractMesh((1,), ('data',), abstract_device=device)
    monkeypatch.setattr(native, 'available', None)  # an error, if asked
    with jax.sharding.use_abstract_mesh(mesh):
        assert not native.takes(jnp.ones(1))
    with pytest.raises(TypeError):
        native.takes(jnp.ones(1))
