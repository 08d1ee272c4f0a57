"""The CUDA compiler, for GPUs that are not here."""

import importlib
import importlib.util
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies

from launch.planning.machines import NoCompiler

# jax's plugins that have it, the newest first.
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
    plugin = _plugin(name)
    describe = lambda: topologies.get_topology_desc(
        platform='cuda', topology=sizes, target_config=target
    )
    try:
        try:
            return describe().devices
        except NotImplementedError:
            # jax looks for plugins once, and this one was not on the path.
            importlib.import_module(plugin).initialize()
            return describe().devices
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise NoCompiler(f'{name}: {reason}') from None


def _plugin(name: str) -> str:
    """Returns the plugin's module, from its own folder if need be.

    On a machine without a GPU the plugin is not installed beside the other
    packages: jax would try it in every run, and log an error.
    """
    folder = pathlib.Path(sys.prefix) / 'cuda'
    for place in ('', str(folder)):
        if place and place not in sys.path:
            sys.path.append(place)
            importlib.invalidate_caches()
        for plugin in _PLUGINS:
            if _there(plugin):
                return plugin
    version = jax.__version__
    raise NoCompiler(
        f'{name}: the CUDA compiler is missing: pip install --no-deps '
        f'--target={folder} jax-cuda13-pjrt=={version} '
        f'jax-cuda13-plugin=={version}'
    )


def _there(plugin: str) -> bool:
    try:
        return importlib.util.find_spec(plugin) is not None
    except ModuleNotFoundError:  # not even the package of all plugins
        return False
