"""The CUDA compiler, for GPUs that are not here."""

import contextlib
import importlib
import importlib.util
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax._src.cudnn import fused_attention_stablehlo
from jax.experimental import topologies

from launch.planning.machines import NoCompiler

# Version of cuDNN that programs are compiled for.
CUDNN = (9, 10)
# Where the compiler is if not beside the other packages, where jax would try it
# in every run and log that there is no GPU.
_FOLDER = pathlib.Path(sys.prefix) / 'cuda'
# jax's plugins that have the compiler, the newest first.
_PLUGINS = ('jax_plugins.xla_cuda13', 'jax_plugins.xla_cuda12')


def devices_of(name: str, sizes: str, target: str) -> Sequence[Any]:
    """Returns the devices of a cluster, to compile for.

    Args:
      name: name of the cluster, for errors.
      sizes: SLICESxNODESxGPUS.
      target: the GPU, a GpuTargetConfigProto as text.

    Raises:
      NoCompiler: without jax's plugin for CUDA.
    """
    found = plugin()
    if not found:
        version = jax.__version__
        raise NoCompiler(
            f'{name}: the CUDA compiler is missing: pip install --no-deps '
            f'--target={_FOLDER} jax-cuda13-pjrt=={version} '
            f'jax-cuda13-plugin=={version}'
        )
    describe = lambda: topologies.get_topology_desc(
        platform='cuda', topology=sizes, target_config=target
    )
    try:
        try:
            return describe().devices
        except NotImplementedError:
            # jax looks for plugins once, and this one was not on the path.
            importlib.import_module(found).initialize()
            return describe().devices
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise NoCompiler(f'{name}: {reason}') from None


@contextlib.contextmanager
def with_cudnn(capability: tuple[int, int]) -> Iterator[None]:
    """Lowers cuDNN's attention where neither cuDNN nor a GPU is.

    Args:
      capability: compute capability of the GPU, which decides how wide a head
        may be.
    """
    major, minor = CUDNN
    asked = {
        'check_cudnn_version': lambda: 10_000 * major + 100 * minor,
        'check_compute_capability': lambda least: (
            capability >= tuple(map(int, least.split('.')))
        ),
    }
    with contextlib.ExitStack() as stack:
        for name, answer in asked.items():
            before = getattr(fused_attention_stablehlo, name)
            stack.callback(setattr, fused_attention_stablehlo, name, before)
            setattr(fused_attention_stablehlo, name, answer)
        yield


def there() -> bool:
    """Whether the compiler is there."""
    return bool(_installed()) or (_FOLDER / 'jax_plugins').is_dir()


def plugin() -> str | None:
    """Returns the module of jax's plugin for CUDA, None if there is none.

    On a machine without a GPU it is not installed beside the other packages,
    but in a folder of its own, which is put on the path.
    """
    found = _installed()
    if not found and (_FOLDER / 'jax_plugins').is_dir():
        sys.path.append(str(_FOLDER))
        importlib.invalidate_caches()
        found = _installed()
    return found


def _installed() -> str | None:
    for name in _PLUGINS:
        # Without any plugin of jax's there is not even the package of all.
        with contextlib.suppress(ModuleNotFoundError):
            if importlib.util.find_spec(name):
                return name
    return None
