"""A vision transformer on cluttered digits, a harder set than the digits.

    python train.py --config=configs/cluttered.py:vmoe --workdir=runs/cluttered

8,192 images of 16 x 16 pixels, made from scikit-learn's digits: turned, scaled,
placed anywhere, among pieces of others, in four styles; see
`moe.workloads.vision.data.cluttered`. Variants are those of
`configs/vision.py`.

Expected after 1,000 steps: validation accuracies of vmoe 64.3 ± 0.5 and dense
62.7 ± 5.5 percent (means of three seeds and halves of 95 % intervals), where
1-nearest-neighbour has 60.3 and logistic regression 12.6.
"""

from ml_collections import ConfigDict

from configs import vision


def get_config(variant: str = 'vmoe') -> ConfigDict:
    config = vision.get_config(variant)
    config.data = {'source': {'name': 'cluttered'}, 'shift': 1}
    config.model.image_size = 16
    config.model.patch_size = 4
    return config
