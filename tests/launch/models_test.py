"""Ready configs against what was published of the models."""

import pathlib

import pytest

from configs import models
from configs.published import CONFIGS
from moe.workloads import registry

pytestmark = pytest.mark.slow

# The number of parameters of transformers 5.24.0's own classes (torch 2.13.0),
# made of the same config on the meta device; and billions of parameters, total
# and active, as they were published. Active ones count the embedding where one
# is not the head, but for GPT-OSS, whose figure does not.
PUBLISHED = {
    # arXiv 2401.04088.
    'mixtral_8x7b': (46_702_792_704, 46.7, 12.9),
    # mistral.ai/news/mixtral-8x22b.
    'mixtral_8x22b': (140_620_634_112, 141, 39),
    # arXiv 2409.02060.
    'olmoe_1b_7b': (6_919_161_856, 6.9, 1.3),
    # arXiv 2505.09388.
    'qwen3_30b_a3b': (30_532_122_624, 30.5, 3.3),
    'qwen3_235b_a22b': (235_093_634_560, 235, 22),
    # qwenlm.github.io/blog/qwen-moe.
    'qwen1_5_moe_a2_7b': (14_315_784_192, 14.3, 2.7),
    # arXiv 2508.06471.
    'glm_4_5': (352_797_814_784, 355, 32),
    'glm_4_5_air': (106_852_245_504, 106, 12),
    # The models' pages: 1.3B and 400M, 3.3B and 800M.
    'granite_1b_a400m': (1_334_628_352, 1.3, 0.4),
    'granite_3b_a800m': (3_298_793_472, 3.3, 0.8),
    # arXiv 2412.19437.
    'deepseek_v3': (671_026_404_352, 671, 37),
    # arXiv 2507.20534.
    'kimi_k2': (1_026_408_209_408, 1040, 32),
    # arXiv 2502.16982.
    'moonlight': (15_960_108_544, 16, 3),
    # arXiv 2405.04434.
    'deepseek_v2_lite': (15_706_484_224, 15.7, 2.4),
    # arXiv 2508.10925.
    'gpt_oss_20b': (20_914_757_184, 20.9, 3.6),
    'gpt_oss_120b': (116_829_156_672, 116.8, 5.1),
}


def config(name):
    return registry.read_config(models.get_config(name).to_dict())


def test_every_model_has_its_figures():
    assert list(CONFIGS) == list(PUBLISHED)
    assert set(models.BATCH_SIZES) == {*PUBLISHED, 'ten_trillion'}


@pytest.mark.parametrize('name', PUBLISHED)
def test_counts_are_those_of_transformers(name):
    run = config(name)
    total, active = run.make_workload().count_parameters()
    exact, published, of_token = PUBLISHED[name]
    assert total == exact
    assert total / 1e9 == pytest.approx(published, rel=0.03)
    # A figure of one digit is within half of it, and of two within 6 %.
    table = run.model.vocab_size * run.model.d_model
    embedding = 0 if run.model.tie_embeddings or 'oss' in name else table
    both = [active / 1e9, (active + embedding) / 1e9]
    assert any(x == pytest.approx(of_token, rel=0.15) for x in both)


def test_the_page_has_the_counts():
    page = pathlib.Path('docs/reference/models.md').read_text()
    for name, (exact, total, of_token) in PUBLISHED.items():
        assert f'| `{name}` | {exact:,} | ' in page
        assert f' | {total}B, {of_token}B |' in page
    for name in PUBLISHED:
        active = config(name).make_workload().count_parameters()[1]
        known = f'{PUBLISHED[name][0]:,} | {active:,} |'
        assert known in page


def test_ten_trillion():
    # 64 * (512 + 1) * 3 * 12288 * 8192 = 9.916e12, attention
    # 64 * 2 * 12288 * (12288 + 1024) = 20.9e9, two tables of 131072 x 12288 =
    # 3.2e9; active 64 * 9 * 302e6 = 173.9e9, the attention, one table, and
    # routers of 64 * 12288 * 512 = 0.4e9.
    run = config('ten_trillion')
    total, active = run.make_workload().count_parameters()
    assert total / 1e9 == pytest.approx(9940, rel=0.001)
    assert active / 1e9 == pytest.approx(196.9, rel=0.001)


@pytest.mark.parametrize('name', models.BATCH_SIZES)
def test_training_settings(name):
    run = config(name)
    assert run.model.dtype == 'bfloat16'
    assert run.model.remat != 'none'
    assert run.data.seq_len == 4096


@pytest.mark.parametrize('variant', ['mixtral', 'mixtral_8x7b,512', ''])
def test_variants_that_are_none(variant):
    with pytest.raises(ValueError, match='a variant among mixtral_8x7b'):
        models.get_config(variant)
