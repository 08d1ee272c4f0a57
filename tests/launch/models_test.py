"""Ready configs against what was published of the models."""

import pytest

from configs import models
from moe.workloads import registry

# Billions of parameters, total and active, as published (sources in
# configs/models.py; active ones count the embedding), and what our blocks have
# more: by arithmetic from the published dimensions, in billions.
PUBLISHED = {
    'mixtral_8x7b': (46.7, 12.9, 0.0),
    'mixtral_8x22b': (141.0, 39.0, 0.0),
    'olmoe_1b_7b': (6.9, 1.3, 0.0),
    # Heads of 64, not 128: queries and outputs 2048 x 32 x 64 smaller each,
    # keys and values 2048 x 4 x 64 each, in 48 layers:
    # 48 * (2 * 4.194e6 + 2 * 0.524e6) = 0.453e9.
    'qwen3_30b_a3b': (30.5, 3.35, -0.453),
    # A layer's latent attention is 7168 x 1536 + 1536 x 24576 + 7168 x 576 +
    # 512 x 32768 + 16384 x 7168 = 187.1e6, ours 4 x 7168 x 7168 = 205.5e6:
    # 58 * 18.4e6 = +1.07e9; without three dense layers of 187.1e6 +
    # 3 x 7168 x 18432 = 583.5e6: -1.75e9.
    'deepseek_v3': (671.0, 37.55, -0.68),
    # Ours: 64 * (512 + 1) * 3 * 12288 * 8192 = 9.916e12, attention
    # 64 * 2 * 12288 * (12288 + 1024) = 20.9e9, two tables of 131072 x 12288 =
    # 3.2e9; active 64 * 9 * 302e6 = 174e9, the attention and the tables.
    'ten_trillion': (9940.0, 198.2, 0.0),
}


def config(name):
    return registry.read_config(models.get_config(name).to_dict())


@pytest.mark.parametrize('name', models.SIZES)
def test_counts_are_the_published_ones(name):
    run = config(name)
    total, active = run.make_workload().count_parameters()
    active += run.model.vocab_size * run.model.d_model
    published, of_token, more = PUBLISHED[name]
    assert total / 1e9 == pytest.approx(published + more, rel=0.02)
    assert active / 1e9 == pytest.approx(of_token + more, rel=0.02)


@pytest.mark.parametrize('name', models.SIZES)
def test_training_settings(name):
    run = config(name)
    assert run.model.dtype == 'bfloat16'
    assert run.model.remat != 'none'
    assert run.data.seq_len == 4096


@pytest.mark.parametrize('variant', ['mixtral', 'mixtral_8x7b,512', ''])
def test_variants_that_are_none(variant):
    with pytest.raises(ValueError, match='a variant among mixtral_8x7b'):
        models.get_config(variant)
