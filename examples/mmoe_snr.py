"""Several tasks at once: multi-gate mixtures and sub-network routing.

Both learn one output a task from shared networks. In a multi-gate mixture
(MMoE, Ma et al., KDD 2018) a gate of each task weighs all experts. In
sub-network routing (SNR, Ma et al., AAAI 2019) learned routes between rows of
networks are open, or closed. Every option of both is set here once.

Two tasks are sums over the same inputs, with opposite signs for half of them.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from moe.experts import BatchNorm, Network, Renorm
from moe.layers.multitask import SNR, MultiGate, SNRLevels, mmoe, softmax
from moe.routing import noisy_top_k, top_k

TASKS = 2


def with_all_options() -> dict[str, nn.Module]:
    """Returns the layers by name."""
    plain = functools.partial(Network, (32, 16))
    # Eight equal experts in one product, with every option of a network.
    network = functools.partial(
        Network,
        (32, 16),
        activation='relu',  # of all layers but the last; or one for each
        kernel_init='glorot_uniform',
        use_bias=True,
        weight_norm='learned',  # or 'fixed', or 'none'
        batch_norm=functools.partial(
            BatchNorm,
            momentum=0.99,
            renorm=Renorm(momentum=0.99, rmax=3.0, dmax=5.0),
        ),
    )
    # Or experts that differ: in depth, widths, activations, initialisers.
    different = (
        Network((32, 16), activation='relu', kernel_init='he_normal'),
        Network((64, 32, 16), activation=jnp.sin),
        Network((8, 16), activation=['tanh', 'linear'], weight_norm='fixed'),
    )
    routes = SNR(
        num_outputs=4,
        features=16,
        kind='trans',  # 'aver' adds the inputs up instead
        beta=0.5,
        gamma=-0.1,
        zeta=1.1,
        straight_through=True,
        initializer=nn.initializers.glorot_uniform(),
        l2=1e-4,
    )
    return {
        'mmoe, softmax gates': mmoe(network, 8, TASKS, router=softmax),
        'mmoe, top 2 of 8': mmoe(
            plain,
            8,
            TASKS,
            router=functools.partial(top_k, k=2, renormalize=True),
            kernel_penalty={'l2': 1e-4},
            bias_penalty=lambda bias: 1e-4 * jnp.sum(bias**2),
            router_init=nn.initializers.normal(0.1),
        ),
        'mmoe, noisy top 2, three different experts': MultiGate(
            different, TASKS, router=functools.partial(noisy_top_k, k=2)
        ),
        'snr, two rows of four networks': SNRLevels(
            networks=(plain(num=4), plain(num=4)),
            routes=(routes, SNR(TASKS, 16, kind='aver')),
        ),
    }


class Model(nn.Module):
    """A mixture, and a linear tower for each task."""

    mixture: nn.Module

    @nn.compact
    def __call__(self, x, train: bool = False):
        """Returns predictions [B, T] and the mixture's losses and statistics.

        Args:
          x: [B, D]; also a pair, of the experts' inputs and the gates'.
          train: whether gates draw and batch statistics are those of x.
        """
        y, aux = self.mixture(x, train=train)
        towers = [nn.Dense(1)(y[:, task]) for task in range(TASKS)]
        return jnp.concatenate(towers, axis=1), aux


COEFFICIENTS = {'importance': 1e-2, 'l0': 1e-3, 'regularization': 1.0}


def train(model: nn.Module, steps: int):
    """Returns the errors of each step, and the statistics of the last one."""
    x = jax.random.normal(jax.random.key(0), (256, 10))
    signs = jnp.where(jnp.arange(10) < 5, 1, jnp.array([[1], [-1]]))
    target = jnp.sin(x) @ signs.T
    rngs = {'params': jax.random.key(1), 'router': jax.random.key(2)}
    variables = jax.jit(model.init)(rngs, x)
    params = variables.pop('params')
    optimizer = optax.adam(0.01)
    state = optimizer.init(params)

    @jax.jit
    def step(params, variables, state, key):
        def objective(params):
            (y, aux), moved = model.apply(
                {'params': params, **variables},
                x,
                train=True,
                rngs={'router': key},
                mutable=['batch_stats'],
            )
            error = jnp.mean((y - target) ** 2)
            extra = sum(
                factor * aux.losses.get(name, 0.0)
                for name, factor in COEFFICIENTS.items()
            )
            return error + extra, (error, aux.stats, moved)

        gradients, rest = jax.grad(objective, has_aux=True)(params)
        error, stats, moved = rest
        updates, state = optimizer.update(gradients, state)
        params = optax.apply_updates(params, updates)
        return params, {**variables, **moved}, state, error, stats

    errors, stats = [], {}
    for i in range(steps):
        params, variables, state, error, stats = step(
            params, variables, state, jax.random.key(i)
        )
        errors.append(float(error))
    return errors, stats


def main(steps: int = 200) -> dict[str, tuple]:
    """Trains all layers; returns errors and statistics of each."""
    results = {}
    for name, layer in with_all_options().items():
        results[name] = errors, stats = train(Model(layer), steps)
        print(f'{name}: {errors[0]:.2f} -> {errors[-1]:.2f}')
        for gate in (n for n in stats if n.endswith('gate')):
            print(f'  {gate}', np.array2string(stats[gate], precision=2))
    return results


if __name__ == '__main__':
    main()
