"""The mixture-of-experts layer: route, dispatch, run the experts, combine.

B leading rows, S tokens a row, T = B*S tokens, G groups, D width, E experts.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict
from jaxtyping import Array, Bool, Float, Int

from moe import capacity as capacities
from moe import dispatch
from moe.capacity import CapacityRule
from moe.config import ConfigError, options
from moe.config.registry import entry_of
from moe.dispatch import DISPATCHERS, Dispatcher, only_experts
from moe.experts import ZeroComputationExperts
from moe.layers.auxiliary import auxiliary, buffer_stats, summarize
from moe.layers.gate import Gate, in_groups
from moe.ops.dropout import drops, make_seeds, seeded, with_seeds
from moe.parallel import (
    COMMUNICATION,
    Communication,
    communication_of,
    expert_axes_of,
    none,
    on_expert_devices,
)
from moe.parallel.mesh import BATCH_AXES, num_shards
from moe.parameters import declare_all
from moe.routing import top_k
from moe.types import (
    Aux,
    AuxiliaryLoss,
    Context,
    Router,
    Routing,
)


class MoE(nn.Module):
    """Sends each token through a few of E experts and sums what they return.

    `y[t] = sum_e gate[t, e] * expert_e(x[t])` over the experts that the router
    chose for t, within their capacity. Router arithmetic is float32 whatever
    the dtype of `x`.

    Attributes:
      experts: a module with `num_experts`, e.g. `MLP` or `Lifted`.
      router: a function of (logits, context), e.g. `partial(top_k, k=1)`, or
        the name of one.
      jitter: in training the router sees `x * U(1 - jitter, 1 + jitter)`
        (Switch, arXiv 2101.03961).
      dispatcher: an entry of `DISPATCHERS` or its name, such as 'grouped': the
        layout of the experts' rows; same values, different cost. None is the
        fastest by `moe.dispatch.choose`.
      communication: how tokens reach experts on other devices of a mesh in
        context: an entry of `moe.parallel.COMMUNICATION`, perhaps with
        options, or its name: 'all_to_all' (of capacity buffers), 'ragged' (of
        the dispatcher 'grouped') or 'gather'; with 'none' the compiler
        decides. Same values.
      capacity_factor: capacity factor in training; None drops nothing.
      eval_capacity_factor: capacity factor in evaluation; None drops nothing.
      min_capacity: least capacity of an expert in a group.
      capacity_rule: rule of the capacity, see `moe.capacity.capacity`.
      num_groups: G; tokens compete for capacity inside a group. None makes
        every leading row a group.
      losses: auxiliary losses beside the built-in ones, or replacing those of
        the same name: functions of a `RoutingSummary` by name.
      batch_prioritized: whether tokens take capacity by the router's
        confidence, and not in their order (arXiv 2106.05974).
      zero_computation: zero, copy and constant experts beside the others; the
        router numbers them last.
      router_init: initializer of the router's kernel [D, E].
      router_bias: whether the router's logits have a trained bias [E].
    """

    experts: nn.Module
    router: Router | str = top_k
    jitter: float = 0.0
    dispatcher: str | Dispatcher | None = None
    communication: Communication | str = 'none'
    capacity_factor: float | None = None
    eval_capacity_factor: float | None = None
    min_capacity: int = 1
    capacity_rule: CapacityRule = 'assignments'
    num_groups: int | None = None
    losses: Mapping[str, AuxiliaryLoss] = FrozenDict()
    batch_prioritized: bool = False
    zero_computation: ZeroComputationExperts | None = None
    router_init: Any = nn.initializers.variance_scaling(
        1.0, 'fan_in', 'truncated_normal'
    )
    router_bias: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, '*B S D'],
        *,
        mask: Bool[Array, '*B S'] | None = None,
        token_ids: Int[Array, '*B S'] | None = None,
        position: Int[Array, '*B S'] | None = None,
        importance: Float[Array, '*B S'] | None = None,
        routes: Int[Array, '*B S K'] | None = None,
        train: bool = False,
        record: bool = False,
    ) -> tuple[Float[Array, '*B S F'], Aux]:
        """Routes, runs the experts, combines.

        Args:
          x: tokens, float.
          mask: True for valid tokens; None if all are. Padding takes no
            capacity, counts in nothing and gets output 0.
          token_ids: ids of the tokens, int32, for routers that hash them.
          position: of each token in the global batch, int32, for its noise;
            None if `x` is the whole batch, in order.
          importance: importance of rows in a group of experts, see `Context`.
          routes: experts to replay, int32, -1 for none: the weights follow by
            the router's own rule, see `moe.routing.replay`.
          train: whether this is training, with jitter and `capacity_factor`.
            Randomness comes from the 'router' rng stream.
          record: whether to return the Routing in the Aux.

        Returns:
          The outputs, and the Aux of `auxiliary`.

        Raises:
          ConfigError: for routes of another shape, or of a router that cannot
            be replayed.
          ValueError: if the tokens do not divide into the groups, or, with
            communication, groups or experts do not divide over the devices.
        """
        tokens, valid = in_groups(x, mask, self.num_groups)
        grid = valid.shape
        order = jnp.arange(valid.size, dtype=jnp.int32)
        context = Context(
            mask=valid,
            position=(order if position is None else position).reshape(grid),
            key=self.make_rng('router') if self.has_rng('router') else None,
            train=train,
            importance=None if importance is None else importance.reshape(grid),
            token_id=None if token_ids is None else token_ids.reshape(grid),
            routes=None if routes is None else routes.reshape(*grid, -1),
        )
        gate = Gate(
            self.num_experts,
            self.router,
            self.jitter,
            self.batch_prioritized,
            self.router_init,
            self.router_bias,
        )
        nn.share_scope(self, gate)  # its parameters are this layer's
        routing, state = gate(tokens, context)
        capacity = self.capacity_of(routing, train)
        seeds = None
        if train and drops(self.experts):
            if context.key is None:
                raise ValueError("MoE: dropout needs an rng named 'router'")
            key = jax.random.fold_in(context.key, 2)  # after jitter, dropout
            seeds = make_seeds(key, context.position)
        y, within, excess = self._execute(tokens, routing, capacity, seeds)
        declare_all(self.experts, first_axis='expert')
        summary = summarize(
            routing,
            num_sequences=valid.size // x.shape[-2],
            state=state.values,
        )
        lost: Mapping[str, Any] = {}
        if excess is not None:
            number = lambda x: jnp.sum(x, dtype=jnp.float32)
            lost = buffer_stats(excess, number(routing.valid), number(within))
        aux = auxiliary(
            summary,
            within,
            extra_losses=self.losses,
            extra_stats=lost,
            state_statistics=state.statistics,
            record=record,
        )
        return y.astype(x.dtype).reshape(*x.shape[:-1], -1), aux

    @property
    def num_experts(self) -> int:
        """Returns E, zero-computation experts included."""
        count = getattr(self.experts, 'num_experts', None)
        if count is None:
            allowed = 'all experts in one module: MLP(num_experts=E), Lifted'
            name = type(self.experts).__name__
            raise ConfigError('experts', name, f'{allowed}(module, E) or alike')
        more = self.zero_computation
        return count + (more.num_experts if more else 0)

    def capacity_of(self, routing: Routing, train: bool) -> int | None:
        """Returns the capacity of an expert in a group; None drops nothing.

        Args:
          routing: the routing, whose groups and choices determine it; expert
            choice has a capacity of its own.
          train: whether the training factor holds, or the evaluation factor.
        """
        factor = self.capacity_factor if train else self.eval_capacity_factor
        if factor is None or not routing.columns_are_tokens:
            return None
        return capacities.capacity(
            routing.mask.shape[1],
            routing.num_experts,
            routing.weight.shape[1],
            factor,
            self.min_capacity,
            self.capacity_rule,
        )

    def _execute(self, tokens, routing: Routing, capacity: int | None, seeds):
        # Seeds of dropout travel with the tokens.
        wrap, given = seeded, tokens
        if seeds is None:
            wrap = lambda experts: experts
        else:
            given = with_seeds(tokens, seeds)
        if not self.zero_computation:
            return self._through_experts(given, routing, capacity, wrap)
        count = self.experts.num_experts  # type: ignore[attr-defined]
        dispatched = only_experts(routing, 0, count)
        y, within, excess = self._through_experts(
            given, dispatched, capacity, wrap
        )
        gates = routing.gates()[..., count:]
        y = y + self.zero_computation(tokens, gates)
        unlimited = routing.valid & (routing.assignment_expert() >= count)
        rows = unlimited.shape[1] - within.shape[1]  # where rows are experts
        within = jnp.pad(within, [(0, 0), (0, rows), (0, 0)])
        return y, within | unlimited, excess

    def _through_experts(
        self, tokens, routing: Routing, capacity: int | None, wrap: Callable
    ):
        """Runs the experts, locally or on the devices that own them.

        Returns the outputs, the assignments within capacity, and with bounded
        receive buffers how many of them [G, E] the buffers had no row for.
        """
        communication = communication_of(self.communication)
        axes = expert_axes_of(communication)
        devices = num_shards(jax.sharding.get_abstract_mesh(), axes)
        dispatcher: Any = self.dispatcher
        if dispatcher is None:
            name = COMMUNICATION.name_of(communication)
            given = (routing, self.experts, capacity, tokens.dtype, name)
            dispatcher = dispatch.choose(*given)
        dispatcher = DISPATCHERS.find(dispatcher, 'dispatcher')
        bounded = options(communication).get('buffer_factor') is not None
        local = entry_of(communication) is none or devices == 1
        by_hand = not local or (devices == 1 and self._splits(len(tokens)))
        if self.is_initializing() or not by_hand:
            experts = wrap(self.experts)
            y, within = dispatcher(tokens, routing, experts, capacity)
            nothing = jnp.zeros((len(tokens), routing.num_experts))
            return y, within, nothing if bounded else None
        if local:
            axes = ()
            module, variables = self.experts.unbind()
        else:
            module, variables = _part(self.experts, devices)
            dispatcher = communication(dispatcher, axes)

        def run(variables, tokens, routing):
            def experts(rows, sizes=None, *seeds):
                return module.apply(variables, rows, sizes, *seeds)

            y, within = dispatcher(tokens, routing, wrap(experts), capacity)
            if not bounded:
                return y, within, None
            lost = dispatch.within_capacity(routing, capacity) & ~within
            lost = routing.replace(valid=lost).assignments()
            return y, within, jnp.sum(lost, axis=1)

        # What the losses alone read does not travel.
        routing = routing.replace(
            balance_mask=None,
            selection_probability=None,
            unbiased_assignments=None,
            penalized_gates=None,
            active_share=None,
        )
        return on_expert_devices(run, axes)(variables, tokens, routing)

    def _splits(self, groups: int) -> bool:
        """Whether each device can run all experts on groups of its own.

        The compiler alone would bring the rows of all devices to each, to sort
        them. What experts draw or update is that of the whole batch.
        """
        mesh = jax.sharding.get_abstract_mesh()
        shares = num_shards(mesh, BATCH_AXES)
        if shares == 1 or groups % shares or set(mesh.manual_axes):
            return False
        rngs = self.scope.rngs if self.scope else ()
        draws = set(rngs) - {'params', 'router'}
        if draws or not isinstance(self.experts, nn.Module):
            return False
        return set(self.experts.variables) <= {'params'}


def _part(experts: nn.Module, devices: int) -> tuple[nn.Module, Any]:
    """Returns one device's share of the experts, and all parameters."""
    fields = [field.name for field in dataclasses.fields(experts)]
    if 'num_experts' not in fields:
        allowed = 'experts of one kind, to be split over devices'
        raise ConfigError('experts', type(experts).__name__, allowed)
    module, variables = experts.unbind()
    count = module.num_experts  # type: ignore[attr-defined]
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        if not leaf.ndim or leaf.shape[0] != count:
            allowed = f'of the {count} experts by its first axis, to be split'
            name = f'experts.{path[-1].key}'
            raise ConfigError(name, leaf.shape, allowed)
    if count % devices:
        allowed = f'a multiple of the {devices} devices that they are over'
        raise ConfigError('num_experts', count, allowed)
    return module.clone(num_experts=count // devices), variables
