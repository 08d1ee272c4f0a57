"""Several tasks at once, on synthetic data or on a table.

    python train.py --config=configs/multitask.py:mmoe,synthetic --workdir=DIR
    python train.py --config=configs/multitask.py:ple,census \
        --config.data.files=census-income.data.gz --workdir=DIR

MODEL,DATASET: the data are `synthetic` (two regressions as alike as
`data.correlation` says, Ma et al., KDD 2018) or `census` (census-income (KDD):
your copy of the file). For a table of your own copy `configs/census.py`.

Models, of about the same number of parameters:
  shared_bottom  one network for all tasks.
  single_task    a network for each task, nothing shared.
  omoe           experts, one gate for all tasks.
  mmoe           experts, a gate for each task (Ma et al., KDD 2018).
  cgc            experts of each task and shared ones.
  ple            the same in levels (Tang et al., RecSys 2020).
  cross_stitch   a network for each task, mixed after each level (1604.03539).
  snr_trans      networks in two rows, learned routes between them that close
                 (Ma et al., AAAI 2019).
  snr_aver       the same without matrices on the routes.
"""

import ml_collections
from ml_collections import config_dict

from configs import census
from moe.config import options
from moe.workloads.multitask.mixtures import MIXTURES

DATASETS = ('synthetic', 'census')
# Where they are not (16,): of 100 inputs, all models have about as many
# parameters as 8 experts.
_WIDTHS = {
    'shared_bottom': (113,),
    'single_task': (64,),
    'cross_stitch': (48,),
    'snr_aver': (26,),
}


def section(name: str, **changes) -> ml_collections.ConfigDict:
    """The section of a mixture, with all of its options."""
    made = {'name': name, **options(MIXTURES[name]), **changes}
    return ml_collections.ConfigDict(made)


def get_config(variant: str = 'mmoe,synthetic') -> ml_collections.ConfigDict:
    model_name, _, dataset = variant.partition(',')
    dataset = dataset or 'synthetic'
    if model_name not in MIXTURES or dataset not in DATASETS:
        names = ', '.join(MIXTURES), ', '.join(DATASETS)
        raise ValueError('MODEL,DATASET of {} and {}'.format(*names))
    config = ml_collections.ConfigDict({'optimizer': {}})
    config.workload = {'synthetic': 'synthetic', 'census': 'table'}[dataset]
    config.steps = 10_000
    config.optimizer.learning_rate = 1e-3
    constant = {'name': 'constant', 'warmup_steps': 0}
    config.optimizer.schedule = ml_collections.ConfigDict(constant)
    config.optimizer.weight_decay = 0.0
    config.optimizer.clip_norm = None
    config.optimizer.b2 = 0.999
    config.log_every = 100
    config.eval_every = 1000
    config.checkpoint_every = 1000

    config.model = model = ml_collections.ConfigDict()
    model.mixture = section(model_name)  # name and its options
    model.tower_widths = (8,)  # hidden widths of each task's own network

    model.features = features = ml_collections.ConfigDict()
    features.width = config_dict.placeholder(int)  # of embeddings; None: a rule
    features.onehot_up_to = 0  # tables of so many ids are one-hot

    model.expert = expert = ml_collections.ConfigDict()
    expert.widths = _WIDTHS.get(model_name, (16,))  # layers of each expert
    expert.activation = 'relu'  # relu, gelu, silu, tanh, sigmoid, linear
    expert.output_activation = 'relu'  # of the last layer
    expert.weight_norm = 'none'  # none, fixed, learned
    expert.batch_norm = False  # of the input and the hidden layers
    expert.momentum = 0.99  # of its running averages
    expert.renorm = False  # batch renormalisation instead
    expert.renorm_momentum = 0.99  # of its running averages
    expert.l1 = 0.0  # penalty of the kernels, in the loss `regularization`
    expert.l2 = 0.0
    expert.bias_l2 = 0.0  # of the biases

    model.gate = gate = ml_collections.ConfigDict()
    gate.router = ml_collections.ConfigDict({'name': 'softmax'})
    gate.temperature = 1.0  # divides the logits
    gate.dropout = 0.0  # chance that an expert is out of a gate's reach

    config.balance = balance = ml_collections.ConfigDict()
    balance.weights = ()  # of the tasks' losses; () is 1 each
    balance.method = 'static'  # static, uncertainty, gradnorm
    balance.gradnorm_alpha = 1.5  # how strongly slow tasks are favoured
    balance.gradnorm_rate = 0.025  # learning rate of its weights
    balance.pcgrad = False  # project conflicting gradients

    config.losses = losses = ml_collections.ConfigDict()
    losses.importance = 0.0  # variation of the experts' summed gates
    losses.l0 = 0.0  # expected number of open routes
    losses.regularization = 1.0  # factor on the penalties above

    config.data = data = ml_collections.ConfigDict()
    if dataset == 'synthetic':
        data.num_tasks = 2
        data.correlation = 0.5  # p, cosine of the tasks' weights
        data.scale = 1.0  # c, their length
        data.num_sines = 5  # m
        data.num_features = 100  # d
        data.noise = 0.1  # standard deviation
        data.num_rows = 200_000  # 0 is a stream: no row comes twice
        data.num_val_rows = 20_000
        data.seed = 0  # of the function and its rows
        data.batch_size = 128  # rows a step, over all hosts
    else:
        config.steps = 1400  # six passes over 60,000 rows
        config.eval_every = 350
        config.checkpoint_every = 700
        features.onehot_up_to = 100
        data.files = 'census-income.data.gz'  # a path or a glob
        data.val_files = ''  # '' keeps a share of `files`
        data.test_files = ''
        data.val_fraction = 0.2
        data.test_fraction = 0.2
        data.split_seed = 0  # of which rows are kept
        data.batch_size = 256
        data.on_error = 'raise'  # or `skip` rows that cannot be used
        data.scratch = ''  # folder for encoded rows; '' is the system's
        data.schema = ml_collections.ConfigDict(census.schema())
    return config
