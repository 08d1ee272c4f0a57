"""A byte-level mixture-of-experts language model on real text.

    python train.py --config=configs/lm.py:quickstart --workdir=runs/quickstart

Expected on two CPU cores after 600 steps, about 5 minutes: 1.74 to 1.77
validation bits per byte on the standard library of Python 3.11, where `dense`
comes to 1.82 to 1.84 in about 3.

Variants, with another router after a comma: `configs/lm.py:top2,sigmoid`:
  quickstart  32 experts, top 2, dropless.
  dense       no mixture; a feed-forward of the same active FLOPs a token.
  switch      32 experts, top 1, capacity 1.25, input jitter.
  top2        32 experts, top 2, capacity 1.25 in groups of one sequence.
  dropless    128 narrow experts, top 8, dropless.
"""

import ml_collections
from ml_collections import config_dict

from moe.config import options
from moe.layers import CHOICES

VARIANTS = ('quickstart', 'dense', 'switch', 'top2', 'dropless')


def router(name: str, **changes) -> ml_collections.ConfigDict:
    """The section of a router, with all of its options."""
    section = {'name': name, **options(CHOICES[name]), **changes}
    return ml_collections.ConfigDict(section)


def chosen(variant: str, variants: tuple[str, ...]) -> tuple[str, str]:
    """A variant and, after a comma, a router, '' without; both are known."""
    variant, _, other = variant.partition(',')
    if variant not in variants or (other and other not in CHOICES):
        names = ', '.join(variants), ', '.join(CHOICES)
        raise ValueError(
            'a variant among {}, and a router among {}'.format(*names)
        )
    return variant, other


def get_config(variant: str = 'quickstart') -> ml_collections.ConfigDict:
    variant, other = chosen(variant, VARIANTS)
    config = ml_collections.ConfigDict()
    config.task = 'lm'  # what `model` and `data` are
    config.seed = 0  # of parameters, data order and routing noise
    config.steps = 600  # optimizer steps

    config.model = model = ml_collections.ConfigDict()
    model.vocab_size = 256  # bytes
    model.d_model = 128  # width of the residual stream
    model.num_layers = 4  # blocks
    model.num_heads = 2  # query heads
    model.num_kv_heads = 2  # key and value heads; fewer is grouped-query
    model.d_ff = 256  # hidden width of a dense feed-forward
    model.activation = 'swiglu'  # relu, gelu, silu, swiglu, geglu
    model.use_bias = False  # in the dense feed-forward
    model.norm_epsilon = 1e-6  # of RMSNorm
    model.rope_theta = 10_000.0  # base of the rotary wavelengths
    model.attention = 'xla'  # kernel; on GPUs also cudnn, on TPUs splash
    model.tie_embeddings = False  # whether the head is the embedding
    model.moe_every = 1  # every n-th layer is a mixture; 0 for none
    model.dtype = 'float32'  # of the computation: float32 or bfloat16
    # What the backward pass computes again, from least to most: none, dots
    # (all but unbatched products), hidden (all but what attention and experts
    # return, and the hidden products of feed-forwards), full.
    model.remat = 'none'

    model.moe = moe = ml_collections.ConfigDict()
    moe.num_experts = 32  # E
    moe.d_ff = 128  # hidden width of one expert
    moe.activation = 'swiglu'  # as above, of the experts
    moe.use_bias = False  # in the experts
    moe.router = router('top_k', k=2)  # name and its options
    moe.outer_experts = 0  # groups of experts, each with a router; 0: one level
    moe.outer_router = router('top2')  # between the groups
    moe.allow_lookahead = False  # routers that see later tokens
    moe.jitter = 0.0  # router sees x * U(1 - jitter, 1 + jitter) in training
    moe.executor = 'grouped'  # onehot, indexed, grouped
    moe.exchange = 'none'  # between devices: all_to_all, ragged, gather
    moe.exchange_levels = 1  # 2: experts are over mesh.replica too
    moe.exchange_room = config_dict.placeholder(float)  # of ragged; see docs
    moe.capacity_factor = config_dict.placeholder(float)  # None drops nothing
    moe.eval_capacity_factor = config_dict.placeholder(float)  # in evaluation
    moe.min_capacity = 4  # least slots of an expert in a group
    moe.capacity_rule = 'assignments'  # of all choices, or of 'tokens'
    moe.num_groups = config_dict.placeholder(int)  # None: one a sequence
    moe.balance_scope = 'global'  # group, device, global, padded
    moe.batch_prioritized = False  # slots by confidence, not by position
    moe.zero_experts = 0  # beside the others: return 0
    moe.copy_experts = 0  # return the token
    moe.constant_experts = 0  # return the token mixed with a trained vector
    moe.shared_d_ff = 0  # hidden width of a network for all tokens; 0: none
    moe.shared_gate = 'none'  # its weight: none (1), sigmoid, softmax

    config.losses = losses = ml_collections.ConfigDict()
    losses.load_balance = 0.01  # coefficient of the load-balance loss
    losses.router_z = 0.001  # coefficient of the router z-loss

    config.data = data = ml_collections.ConfigDict()
    data.files = ''  # glob of text files; '' is Python's standard library
    data.seq_len = 128  # bytes a sequence
    data.batch_size = 32  # sequences a step, over all hosts
    data.val_fraction = 0.04  # share of the files kept for validation

    config.optimizer = optimizer = ml_collections.ConfigDict()
    optimizer.name = 'adamw'  # adamw, adafactor, lion, muon
    optimizer.learning_rate = 3e-3  # peak
    optimizer.schedule = schedule = ml_collections.ConfigDict()
    schedule.name = 'cosine'  # constant, linear, cosine
    schedule.warmup_steps = 50  # linear warm-up
    schedule.final_fraction = 0.1  # last learning rate over the peak
    optimizer.weight_decay = 0.1  # on matrices, not norms, biases, routers
    optimizer.clip_norm = 1.0  # global gradient norm; None for no clipping
    optimizer.accumulation = 1  # microbatches a step

    config.mesh = mesh = ml_collections.ConfigDict()
    mesh.replica = 1  # slices that hold whole copies
    mesh.data = -1  # data parallel; -1 takes the devices that are left
    mesh.fsdp = 1  # data parallel with sharded parameters
    mesh.expert = 1  # experts spread over devices
    mesh.tensor = 1  # hidden widths and heads spread over devices

    config.log_every = 10  # steps between metrics
    config.eval_every = 300  # steps between passes over the validation set
    config.checkpoint_every = 300  # steps between checkpoints
    config.keep_checkpoints = 2  # newest ones kept
    config.sample_prompt = 'def '  # continued at the end of the run
    config.sample_length = 400  # bytes of the continuation

    if variant == 'dense':
        model.moe_every = 0
        model.d_ff = 267  # 2 experts of 128, and what the router multiplies
    elif variant == 'switch':
        moe.router = router('switch')
        moe.d_ff = 256
        moe.jitter = 0.01
        moe.executor = 'indexed'
        moe.capacity_factor = 1.25
        moe.eval_capacity_factor = 2.0
    elif variant == 'top2':
        moe.executor = 'indexed'
        moe.capacity_factor = 1.25
        moe.eval_capacity_factor = 2.0
    elif variant == 'dropless':
        moe.num_experts = 128
        moe.d_ff = 32
        moe.router = router('top_k', k=8)
    if other:
        k = moe.router.get('k', 1)
        moe.router = router(other)
        if 'k' in moe.router:
            moe.router.k = k
    return config
