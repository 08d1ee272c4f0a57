"""The presets of vision against what was published of the models."""

import math
import pathlib

import pytest

from configs import vision_presets
from moe.workloads import registry

pytestmark = pytest.mark.slow

# Millions of parameters, with pre-logits and the 18,291 classes of JFT-300M:
# arXiv 2106.05974, appendix.
V_MOE = {'vmoe_b16': 979.0, 'vmoe_last_h14': 2688.6}
# Those with the 29,593 classes of JFT-4B, cut to whole millions: arXiv
# 2308.00951, table 2.
SOFT_MOE = {'soft_s16': 933}
# Those without a head: arXiv 2010.11929, table 1.
VIT = {'vit_b16': 86}


def made(variant, **changes):
    """A preset's run, its model changed, and millions of parameters."""
    plain = vision_presets.get_config(variant).to_dict()
    plain['model'] |= changes
    plain['data']['batch_size'] = 8
    run = registry.read_config(plain)
    return run, run.make_workload().count_parameters()[0] / 1e6


def assert_told(variant, found, classes, hidden=0):
    """Checks the page's count, which is of 1,000 classes, without pre-logits.

    Args:
      variant: name of the preset.
      found: millions of parameters.
      classes: number of classes that they are of.
      hidden: width of the pre-logits that they have.
    """
    width = vision_presets.get_config(variant).model.d_model
    more = (classes - 1000) * (width + 1) + hidden * (width + 1)
    page = pathlib.Path('docs/how-to/vision-models.md').read_text()
    (row,) = [r for r in page.splitlines() if r.startswith(f'| `{variant}` ')]
    assert row.split(' | ')[3] == f'{found - more / 1e6:,.1f}'


@pytest.mark.parametrize('variant', V_MOE)
def test_v_moe_has_the_published_parameters(variant):
    width = vision_presets.get_config(variant).model.d_model
    _, found = made(variant, num_classes=18_291, head_hidden=width)
    # Less the class token and the bias of the patches, 2,560 at most.
    assert round(found, 1) == V_MOE[variant]
    assert_told(variant, found, 18_291, width)


@pytest.mark.parametrize('variant', SOFT_MOE)
def test_soft_moe_has_the_published_parameters(variant):
    run, found = made(variant, num_classes=29_593)
    assert math.floor(found) == SOFT_MOE[variant]
    assert_told(variant, found, 29_593)
    # One slot for each of 128 experts, and 196 patches.
    slots = run.model.moe.experts_per_token * 196
    assert math.ceil(slots / 128) == 1
    assert 127 < slots <= 128


@pytest.mark.parametrize('variant', VIT)
def test_vit_has_the_published_parameters(variant):
    _, found = made(variant, num_classes=1)
    assert round(found) == VIT[variant]
    assert_told(variant, found, 1)
