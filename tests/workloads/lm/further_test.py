"""Multi-token prediction and the z-loss against loops over documents."""

import functools

import jax
import numpy as np
import pytest

from moe.training.objective import Objective
from moe.workloads.lm.data.packing import Packed
from moe.workloads.lm.generate import Generator
from moe.workloads.lm.model import LM, active_parameters
from moe.workloads.lm.sampling import Sampling
from tests import tiny
from tests.reference import mtp as reference
from tests.reference import slopes
from tests.reference.compare import assert_close

pytestmark = pytest.mark.slow

LENGTH = 6
BATCH = np.random.default_rng(0).integers(0, 256, (2, LENGTH + 1), np.int32)
MTP = {'depth': 2, 'weight': 0.6}
CHANGES = {
    'model.mtp': MTP,
    'model.dense_layers': (0,),
    'data.seq_len': LENGTH,
    'data.batch_size': 2,
    'losses': {'output_z': 0.1},
}


@functools.cache
def run_config():
    return tiny.parsed(CHANGES)


@functools.cache
def parameters():
    inputs = np.zeros((1, LENGTH), np.int32)
    return tiny.parameters(LM(run_config().model).init, inputs)


@functools.cache
def trained():
    """Value, gradients and sums of the objective, of any tokens."""
    config = run_config()
    objective = Objective(config, config.make_workload())

    def value(params, batch):
        terms, (sums, _) = objective.sums(params, {}, batch, jax.random.key(0))
        return objective.value(terms, params), sums

    return jax.jit(jax.value_and_grad(value, has_aux=True))


def expected(params, documents):
    """The objective, and the losses by name, by loops over documents."""
    options = tiny.oracle_options(run_config().model)
    found = [reference.losses(d, params, options, 2) for d in documents]
    means = [np.mean(np.concatenate([f[k] for f in found])) for k in range(3)]
    squares = [
        reference.squared_log_sums(d, params, options) for d in documents
    ]
    z = np.mean(np.concatenate(squares))
    total = means[0] + 0.3 * (means[1] + means[2]) + 0.1 * z
    names = ('mtp_1', 'mtp_2', 'output_z')
    return total, dict(zip(names, (*means[1:], z), strict=True))


def test_equals_the_loops_in_values_and_gradients():
    params = parameters()
    (value, sums), gradients = trained()(params, BATCH)
    wide = jax.tree.map(np.float64, params)
    desired, losses = expected(wide, BATCH)
    assert_close(value, desired, 2e-6)
    for name, loss in losses.items():
        assert_close(sums.losses[name].term, loss, 2e-6)
    # Five positions of each row have a token two later, four one three later.
    counts = [float(sums.losses[f'mtp_{k}'].count) for k in (1, 2)]
    assert counts == [2 * 5, 2 * 4]
    # The mixture of the model and those of the depths.
    assert sums.losses['load_balance'].term.shape == (3,)
    draw = np.random.default_rng(1)
    along = jax.tree.map(lambda v: draw.standard_normal(v.shape), wide)
    desired = slopes.along_each(lambda p: expected(p, BATCH)[0], wide, along)
    actual = slopes.products(gradients, along)
    assert set(desired) >= {'mtp_1', 'mtp_2', 'stack', 'embedding', 'head'}
    assert_close(actual, desired, 3e-5, scale=1.0)


def test_documents_are_as_each_by_itself():
    # Of 4, 2 and 1 tokens: the second has no token two later, the third no
    # target at all.
    segments = np.array([[1, 1, 1, 1, 2, 2, 3], [4, 4, 4, 4, 4, 5, 0]])
    (_, sums), _ = trained()(parameters(), Packed(BATCH, segments))
    wide = jax.tree.map(np.float64, parameters())
    documents = [BATCH[0, :4], BATCH[0, 4:6], BATCH[1, :5]]
    options = tiny.oracle_options(run_config().model)
    by_hand = [[], [], []]
    for document in documents:
        depth = min(2, len(document) - 2)
        found = reference.losses(document, wide, options, depth)
        for k, losses in enumerate(found):
            by_hand[k] += losses
    assert [len(losses) for losses in by_hand] == [3 + 1 + 4, 2 + 3, 1 + 2]
    for k in (1, 2):
        found = sums.losses[f'mtp_{k}']
        assert_close(found.term, np.mean(by_hand[k]), 2e-6)
        assert float(found.count) == len(by_hand[k])
    assert_close(sums.means['loss'].term, np.mean(by_hand[0]), 2e-6)


def test_nothing_else_reads_the_depths():
    # Evaluation, and the tokens of decoding, are those of the model without.
    config = run_config()
    plain = tiny.parsed({**CHANGES, 'model.mtp': None, 'losses': {}})
    params = parameters()
    bare = {n: v for n, v in params.items() if not n.startswith('mtp')}
    assert len(params) == len(bare) + 2
    results = []
    for run, given in ((config, params), (plain, bare)):
        forward = jax.jit(run.make_workload().forward)
        out = forward({'params': given}, BATCH)
        made = Generator(run.model, {'params': given}).generate(
            BATCH[:, :3],
            jax.random.key(0),
            length=2,
            sampling=Sampling(),
        )
        text = np.stack([one.token for one in made])
        assert not out.losses
        results.append((out.means['loss'].sum, text))
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)


def test_counts():
    # A depth has 2 * 16 * 16 + 3 * 16 beside a mixture block of 1024 for
    # attention, 32 for norms, 64 for the router and 4 * 768 for experts.
    config = run_config()
    workload = config.make_workload()
    plain = tiny.parsed({**CHANGES, 'model.mtp': None}).make_workload()
    total, active = workload.count_parameters()
    bare, bare_active = plain.count_parameters()
    assert total - bare == 2 * (512 + 48 + 1024 + 32 + 64 + 3072)
    assert active == bare_active
    assert active_parameters(config.model, plain.parameters)[0] == bare
    # Six FLOPs for each active one, two of four experts; the head is used
    # again; 12 D * S/2 for attention over 3 positions in the mean.
    more = sum(workload.flops_per_unit().values()) - sum(
        plain.flops_per_unit().values()
    )
    own = 512 + 48 + 1024 + 32 + 64 + 1536 + 16 * 256
    assert more == 2 * (6 * own + 12 * 16 * LENGTH / 2)


def test_mixtures_of_depths_have_numbers():
    workload = run_config().make_workload()
    assert run_config().model.training_mixtures == [1, 2, 3]
    stats = {'entropy': np.array([0.5, 1.0, 1.5])}
    assert workload.layer_metrics(stats) == {
        'moe/layer_1/entropy': 0.5,
        'moe/layer_2/entropy': 1.0,
        'moe/layer_3/entropy': 1.5,
    }
    # The last layer dense: so are the depths.
    dense = tiny.model({'mtp': MTP, 'dense_layers': (1,)})
    assert dense.training_mixtures == [0]
