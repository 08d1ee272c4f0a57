"""What the experts of a run do on data: one pass over a validation set.

G groups, S tokens a group, L mixture layers, E experts.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from moe import dispatch, progress
from moe.checkpoints.transform import Overrides, Source, damaged
from moe.config import ConfigError
from moe.dispatch import DISPATCHERS, only_experts
from moe.layers import MoE
from moe.layers.gate import in_groups
from moe.parallel import (
    batch_sharding,
    global_batch,
    parameter_shardings,
    replicated,
    with_shardings,
)
from moe.training.record import Damage
from moe.training.restore import restore_variables
from moe.training.step import init_state
from moe.workloads.opened import placed

SCORES = ('load', 'gate_mass', 'reap')


class Measured(NamedTuple):
    """Sums over the valid tokens of a validation set, before capacity.

    Attributes:
      load: [L, E], how many tokens were sent to the expert.
      gate_mass: [L, E], sum of their gates.
      output: [L, E], sum of gate times norm of the expert's output.
      products: [L, E, E], sums of products of two experts' router logits.
    """

    load: Float[np.ndarray, 'L E']
    gate_mass: Float[np.ndarray, 'L E']
    output: Float[np.ndarray, 'L E']
    products: Float[np.ndarray, 'L E E']

    def score(self, by: str) -> Float[np.ndarray, 'L E']:
        """Returns how much an expert matters.

        'reap' is the mean over the expert's tokens of gate times norm of its
        output, 0 without a token. Source: REAP, arXiv 2510.13999, eq. 9.

        Args:
          by: one of `SCORES`.
        """
        if by == 'reap':
            return self.output / np.maximum(self.load, 1)
        return getattr(self, by)


def measure(source: Source, data: Overrides = ()) -> Measured:
    """Runs the model over a validation set, and sums up what experts do.

    Args:
      source: the checkpoint.
      data: what is changed of the config, `data.*`.

    Raises:
      ConfigError: for data that cannot be used.
      Damaged: if the checkpoint is damaged.
    """
    config, mesh = placed(source.changed({}, data), {})
    workload = config.make_workload()
    with progress.shown('loading data'):
        loaded = workload.load_data()
    sharding = batch_sharding(mesh)

    @jax.jit
    def sums(variables, batch):
        with nn.intercept_methods(_measuring):
            aux: Any = workload.forward(variables, batch).aux
        return replicated(aux.routing)

    total: Any = None
    with jax.set_mesh(mesh):
        shapes = jax.eval_shape(lambda: init_state(config, workload=workload))
        shardings = parameter_shardings(
            mesh, shapes, workload.parameters, config.expert_axes
        )
        like = with_shardings(shapes, shardings)
        try:
            variables = restore_variables(source.path, like)
        except Damage as damage:
            raise damaged(damage, source.workdir) from None
        with progress.shown('measuring experts', unit='batches') as reach:
            for i, batch in enumerate(workload.eval_batches(loaded, 0, 1)):
                found = sums(variables, global_batch(sharding, batch))
                found = jax.tree.map(np.float64, jax.device_get(found))
                total = found if i == 0 else jax.tree.map(np.add, total, found)
                reach(i + 1)
    if total is None:
        raise ConfigError('config.data', None, 'one with validation examples')
    return Measured(**total)


def _measuring(
    call: Any, args: Sequence[Any], kwargs: Mapping[str, Any], context: Any
) -> Any:
    """Puts the sums of a mixture where its Aux has the Routing."""
    if context.method_name != '__call__' or not isinstance(context.module, MoE):
        return call(*args, **kwargs)
    y, aux = call(*args, **{**kwargs, 'record': True})
    layer, routing = context.module, aux.routing
    tokens, valid = in_groups(args[0], kwargs.get('mask'), layer.num_groups)
    count = layer.experts.num_experts
    own = only_experts(routing, 0, count)
    total = lambda x: jnp.sum(x[..., :count], axis=(0, 1))
    logits = jnp.where(valid[..., None], routing.logits, 0)[..., :count]
    sums = {
        'load': total(routing.assignments()),
        'gate_mass': total(routing.gates()),
        'output': total(_outputs(layer.experts, tokens, own)),
        'products': jnp.einsum('gse,gsf->ef', logits, logits),
    }
    return y, aux._replace(routing=sums)


def _outputs(experts: nn.Module, tokens: Any, routing: Any) -> Any:
    """Returns gate times norm of the output of each token's experts [G, S, E].

    A dispatcher sums the gates times what the experts return: here the norm in
    the column of the expert, and 0 in the others.
    """
    module, variables = experts.unbind()
    count: int = module.num_experts  # type: ignore[attr-defined]

    def norms(rows, sizes=None):
        given = (rows,) if sizes is None else (rows, sizes)
        y: Any = module.apply(variables, *given)
        norm = jnp.linalg.norm(y.astype(jnp.float32), axis=-1)
        expert = jnp.arange(count)[:, None]
        if sizes is not None:
            at = jnp.arange(len(rows))
            expert = jnp.searchsorted(jnp.cumsum(sizes), at, 'right')
        return norm[..., None] * jax.nn.one_hot(expert, count)

    run = DISPATCHERS['indexed']
    if jax.sharding.get_abstract_mesh().size == 1:
        run = dispatch.choose(routing, experts, None, tokens.dtype)
    return run(tokens, routing, norms, None)[0]
