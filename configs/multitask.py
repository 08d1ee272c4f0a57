"""Several tasks at once, on synthetic data or on a table.

    python train.py --config=configs/multitask.py:mmoe,synthetic --workdir=DIR
    python train.py --config=configs/multitask.py:ple,census \
        --config.data.source.files=census-income.test.gz --workdir=DIR

MODEL,DATASET: the data are `synthetic` (two regressions as alike as
`data.source.correlation` says, Ma et al., KDD 2018) or `census` (census-income
(KDD): your copy of the file). For a table of your own copy
`configs/census.py`.

Expected on two CPU cores: of `mmoe,synthetic` a validation error of .01 to .02
for each task after 10,000 steps, about a minute; of `mmoe,census`, on the
smaller file, areas under the ROC curve of .936 for income and .994 for never
married after 1,400 steps.

Models, of about the same number of parameters:
  shared_bottom  one network for all tasks.
  single_task    a network for each task, nothing shared.
  omoe           experts, one gate for all tasks.
  mmoe           experts, a gate for each task (Ma et al., KDD 2018).
  cgc            experts of each task and shared ones.
  ple            cgc in levels (Tang et al., RecSys 2020).
  cross_stitch   a network for each task, mixed after each level (1604.03539).
  snr_trans      networks in two rows, learned routes that can close
                 (Ma et al., AAAI 2019).
  snr_aver       as snr_trans, without matrices on the routes.
"""

from ml_collections import ConfigDict

from configs import census
from moe.workloads.multitask.mixtures import MIXTURES

# Of 100 inputs, all models have about as many parameters as 8 experts of 16.
_WIDTHS = {
    'shared_bottom': (113,),
    'single_task': (64,),
    'cross_stitch': (48,),
    'snr_aver': (26,),
}
DATASETS = {
    'synthetic': {
        'steps': 10_000,
        'eval_every': 1000,
        'checkpoint_every': 1000,
        'data': {'source': {'name': 'synthetic'}},
    },
    'census': {
        'steps': 1400,  # six passes over 60,000 rows
        'eval_every': 350,
        'checkpoint_every': 700,
        'data': {'source': census.source(), 'batch_size': 256},
    },
}


def get_config(variant: str = 'mmoe,synthetic') -> ConfigDict:
    name, _, dataset = variant.partition(',')
    dataset = dataset or 'synthetic'
    if name not in MIXTURES or dataset not in DATASETS:
        names = ', '.join(MIXTURES), ', '.join(DATASETS)
        raise ValueError('MODEL,DATASET of {} and {}'.format(*names))
    model = {
        'mixture': {'name': name},
        'expert': {'widths': _WIDTHS.get(name, (16,))},
    }
    if dataset == 'census':
        model['features'] = {'name': 'embedding', 'onehot_up_to': 100}
    return ConfigDict(
        {
            'workload': 'multitask',
            'model': model,
            'optimizer': {
                'learning_rate': 1e-3,
                'schedule': {'name': 'constant', 'warmup_steps': 0},
                'weight_decay': 0.0,
                'clip_norm': None,
                'b2': 0.999,
            },
            'log_every': 100,
            **DATASETS[dataset],
        }
    )
