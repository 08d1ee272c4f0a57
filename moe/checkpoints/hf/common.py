"""Entries and rows that several families have in common."""

from collections.abc import Mapping
from typing import Any

from moe.checkpoints.hf.fields import (
    Entry,
    constant,
    same,
    unread,
    value_of,
)
from moe.checkpoints.hf.tensors import LINEAR, TABLE, VECTOR, Layout, Row, row
from moe.config import ConfigError

# Of the tokenizer, of training, or of how transformers runs a model.
UNREAD = unread(
    '_name_or_path',
    'add_faked_gold',
    'architectures',
    'attention_dropout',
    'auto_map',
    'aux_loss_alpha',
    'bos_token_id',
    'dtype',
    'eos_token_id',
    'ep_size',
    'initial_context_length',
    'initializer_range',
    'max_position_embeddings',
    'model_type',
    'num_ctx',
    'output_router_logits',
    'pad_token_id',
    'pretraining_tp',
    'quantization_config',
    'router_aux_loss_coef',
    'router_jitter_noise',
    'seq_aux',
    'torch_dtype',
    'transformers_version',
    'use_cache',
)
# Published activation -> the gated one of our networks.
ACTIVATIONS = {
    'silu': 'swiglu',
    'swish': 'swiglu',
    'gelu_pytorch_tanh': 'geglu',
    'gelu_new': 'geglu',
}

HEADS_IN = Layout(outputs=2)
HEADS_OUT = Layout(inputs=2)
HEADS_BIAS = Layout(inputs=0, outputs=2)


def sizes() -> list[Entry]:
    """Returns the entries of the stack's sizes, and of its output."""

    def read_heads(given):
        keys = given.get('num_key_value_heads')
        return {'num_kv_heads': keys or given['num_attention_heads']}

    return [
        UNREAD,
        same('vocab_size', 'vocab_size'),
        same('hidden_size', 'd_model'),
        same('num_hidden_layers', 'num_layers'),
        same('num_attention_heads', 'num_heads'),
        Entry(
            ('num_key_value_heads',),
            read_heads,
            lambda m: {'num_key_value_heads': m['num_kv_heads']},
        ),
        same('rms_norm_eps', 'norm_epsilon'),
        same('tie_word_embeddings', 'tie_embeddings'),
        constant('embedding_scale', 1.0),
    ]


def head_dim(always: bool = False) -> Entry:
    """Returns the entry of the width of a head.

    Args:
      always: whether the family has a default of its own; else it is the
        model's width over the number of heads.
    """

    def write(model):
        width = model['head_dim']
        if width is None and always:
            width = model['d_model'] // model['num_heads']
        return {} if width is None else {'head_dim': width}

    return Entry(
        ('head_dim',), lambda g: {'head_dim': g.get('head_dim') or None}, write
    )


def activation(*networks: str) -> Entry:
    """Returns the entry of `hidden_act`.

    Args:
      *networks: sections of the networks that have it.
    """

    def read(given):
        name = given.get('hidden_act', 'silu')
        if name not in ACTIVATIONS:
            allowed = f'one of {", ".join(ACTIVATIONS)}'
            raise ConfigError('hidden_act', name, allowed)
        own = ACTIVATIONS[name]
        return {f'{network}.activation': own for network in networks}

    def write(model):
        own = value_of(model, f'{networks[0]}.activation.name')
        names = {'swiglu': 'silu', 'geglu': 'gelu_pytorch_tanh'}
        return {'hidden_act': names.get(own, own)}

    return Entry(('hidden_act',), read, write)


def biases(name: str, kind: str) -> Entry:
    """Returns the entry of whether projections of attention have biases.

    Args:
      name: the field in `config.json`.
      kind: which have: 'qkv' or 'all'.
    """
    return Entry(
        (name,),
        lambda g: {'attention_bias': kind if g.get(name) else 'none'},
        lambda m: {name: m['attention_bias'] != 'none'},
    )


def moe_sizes(count: str, hidden: str) -> list[Entry]:
    """Returns the entries of the number of experts and of their width.

    Args:
      count: the field with the number of experts.
      hidden: the field with the experts' hidden width.
    """
    return [
        same(count, 'moe.num_experts'),
        same('num_experts_per_tok', 'moe.router.k'),
        same(hidden, 'moe.experts.hidden'),
    ]


def softmax_router(name: str | None) -> Entry:
    """Returns the entry of a softmax router that takes the K greatest.

    Args:
      name: the field that says whether gates are renormalised; None for always,
        which is the softmax of the chosen logits alone.
    """

    def read(given):
        value = True if name is None else bool(given.get(name))
        check_several(given, value)
        return {'moe.router.name': 'top_k', 'moe.router.renormalize': value}

    def write(model):
        value = value_of(model, 'moe.router.renormalize')
        return {} if name is None else {name: value}

    return Entry(() if name is None else (name,), read, write)


def check_several(given: Mapping[str, Any], renormalize: bool) -> None:
    """Refuses one expert a token whose gate is renormalised to 1.

    Our routers leave it as it is, for its gradient.

    Args:
      given: a `config.json`.
      renormalize: whether gates are renormalised.
    """
    if renormalize and given.get('num_experts_per_tok') == 1:
        allowed = '2 or more with renormalised gates: one would always be 1'
        raise ConfigError('num_experts_per_tok', 1, allowed)


def first_dense() -> Entry:
    """Returns the entry of the first layers, which are dense."""

    def read(given):
        layers = given['num_hidden_layers']
        first = range(min(given['first_k_dense_replace'], layers))
        return _dense(first, 1, layers)

    def write(model):
        first = model['dense_layers']
        if not model['moe_every']:
            first = range(model['num_layers'])
        return {'first_k_dense_replace': len(first)}

    return Entry(('first_k_dense_replace',), read, write)


def sparse_steps() -> Entry:
    """Returns the entry of mixtures every n-th layer, but in some."""

    def read(given):
        every = given.get('decoder_sparse_step', 1)
        only = given.get('mlp_only_layers') or ()
        return _dense(only, every, given['num_hidden_layers'])

    def write(model):
        every = model['moe_every']
        only = model['dense_layers'] if every else range(model['num_layers'])
        return {
            'decoder_sparse_step': every or 1,
            'mlp_only_layers': list(only),
        }

    return Entry(('decoder_sparse_step', 'mlp_only_layers'), read, write)


def _dense(given, every: int, layers: int) -> dict[str, Any]:
    """Returns which layers are dense, those alone that would be mixtures."""
    mixtures = {i for i in range(layers) if not (i + 1) % every}
    dense = tuple(sorted(mixtures & set(given)))
    if mixtures == set(dense):
        return {'moe_every': 0, 'dense_layers': ()}
    return {'moe_every': every, 'dense_layers': dense}


def dense_stack() -> list[Entry]:
    """Returns the entries of a stack without mixtures."""
    return [constant('moe_every', 0), constant('dense_layers', ())]


def attention_rows(prefix: str = 'model.layers.{layer}') -> list[Row]:
    """Returns the rows of a block's norms and attention.

    Args:
      prefix: published name of a block.
    """
    own = f'{prefix}.self_attn'
    found = [
        row(f'{prefix}.input_layernorm.weight', 'attention_norm/scale'),
        row(f'{prefix}.post_attention_layernorm.weight', 'mlp_norm/scale'),
        row(f'{own}.q_norm.weight', 'attention/query_norm/scale'),
        row(f'{own}.k_norm.weight', 'attention/key_norm/scale'),
        row(f'{own}.sinks', 'attention/sinks'),
    ]
    found = [one._replace(layout=VECTOR) for one in found]
    projections = {
        'q_proj': 'query',
        'k_proj': 'key',
        'v_proj': 'value',
        'o_proj': 'out',
    }
    for theirs, ours in projections.items():
        layout = HEADS_OUT if ours == 'out' else HEADS_IN
        bias = VECTOR if ours == 'out' else HEADS_BIAS
        found += [
            row(f'{own}.{theirs}.weight', f'attention/{ours}', layout=layout),
            row(f'{own}.{theirs}.bias', f'attention/{ours}_bias', layout=bias),
        ]
    return found


def model_rows() -> list[Row]:
    """Returns the rows of embedding, last norm and head."""
    return [
        row('model.embed_tokens.weight', 'embedding', layout=TABLE),
        row('model.norm.weight', 'norm/scale', layout=VECTOR),
        row('lm_head.weight', 'head'),
    ]


def network_rows(
    name: str,
    target: str,
    names: tuple[str, str, str] = ('gate_proj', 'up_proj', 'down_proj'),
) -> list[Row]:
    """Returns the rows of a gated network, of each expert by itself or of one.

    Args:
      name: published name of the network.
      target: name of ours in its block.
      names: published names of gate, up and down.
    """
    found = []
    for theirs, ours in zip(names, ('gate', 'up', 'down'), strict=True):
        found += [
            row(f'{name}.{theirs}.weight', f'{target}/{ours}', layout=LINEAR),
            row(
                f'{name}.{theirs}.bias', f'{target}/{ours}_bias', layout=VECTOR
            ),
        ]
    return found
