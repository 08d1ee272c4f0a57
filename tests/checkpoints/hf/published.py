"""Published configs with more of what stands in their `config.json`.

As huggingface.co has them, with what transformers 4 wrote: fields that change
nothing here, or that an import has to read beside the model's.
"""

from configs.published import CONFIGS

MIXTRAL_8X7B = CONFIGS['mixtral_8x7b'] | {
    'architectures': ['MixtralForCausalLM'],
    'attention_dropout': 0.0,
    'max_position_embeddings': 32768,
    'output_router_logits': False,
    'router_aux_loss_coef': 0.02,
    'torch_dtype': 'bfloat16',
}
OLMOE_1B_7B = CONFIGS['olmoe_1b_7b'] | {'max_position_embeddings': 4096}
QWEN3_30B_A3B = CONFIGS['qwen3_30b_a3b'] | {
    'max_position_embeddings': 40960,
    'max_window_layers': 48,
}
DEEPSEEK_V3 = CONFIGS['deepseek_v3'] | {
    'ep_size': 1,
    'max_position_embeddings': 163840,
    'num_nextn_predict_layers': 1,
    'quantization_config': {
        'activation_scheme': 'dynamic',
        'fmt': 'e4m3',
        'quant_method': 'fp8',
        'weight_block_size': [128, 128],
    },
}
KIMI_K2 = CONFIGS['kimi_k2'] | {
    'aux_loss_alpha': 0.001,
    'ep_size': 1,
    'max_position_embeddings': 131072,
    'num_nextn_predict_layers': 0,
    'quantization_config': {
        'activation_scheme': 'dynamic',
        'fmt': 'e4m3',
        'quant_method': 'fp8',
        'weight_block_size': [128, 128],
    },
    'seq_aux': True,
}
DEEPSEEK_V2_LITE = CONFIGS['deepseek_v2_lite'] | {
    'aux_loss_alpha': 0.001,
    'max_position_embeddings': 163840,
    'seq_aux': True,
}
GPT_OSS_20B = CONFIGS['gpt_oss_20b'] | {
    'experts_per_token': 4,
    'initial_context_length': 4096,
    'max_position_embeddings': 131072,
    'quantization_config': {
        'modules_to_not_convert': ['model.layers.*.self_attn', 'lm_head'],
        'quant_method': 'mxfp4',
    },
}
