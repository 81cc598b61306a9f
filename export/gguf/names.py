"""Tensor lists of the architectures. Each line is::

    <Hugging Face name>   <GGUF name>   <dimensions>   [flags]

with the names inside a block, or whole names of what stands outside the blocks.
Dimensions: E hidden, Q all query heads, K all key/value heads, D one head, F feed-forward, V vocabulary,
P positions; sums of their multiples are written ``Q+2K``.
Flags: ``optional`` - may be absent; ``rotary`` - permuted per head from halves to neighbouring pairs where
llama.cpp's graph turns pairs; ``turned`` - stored [in, out]; ``+1`` - llama.cpp multiplies by the value plus one;
``query`` - takes up the difference between the model's attention scale and the graph's; ``@2F:F`` - of the source's
2F rows those from row F on.
"""

OUTSIDE = """
model.embed_tokens.weight            token_embd.weight             V E
model.norm.weight                    output_norm.weight            E
lm_head.weight                       output.weight                 V E     optional
"""
LLAMA = """
input_layernorm.weight               attn_norm.weight              E
self_attn.q_proj.weight              attn_q.weight                 Q E     rotary
self_attn.q_proj.bias                attn_q.bias                   Q       rotary optional
self_attn.k_proj.weight              attn_k.weight                 K E     rotary
self_attn.k_proj.bias                attn_k.bias                   K       rotary optional
self_attn.v_proj.weight              attn_v.weight                 K E
self_attn.v_proj.bias                attn_v.bias                   K       optional
self_attn.o_proj.weight              attn_output.weight            E Q
self_attn.o_proj.bias                attn_output.bias              E       optional
post_attention_layernorm.weight      ffn_norm.weight               E
mlp.gate_proj.weight                 ffn_gate.weight               F E
mlp.gate_proj.bias                   ffn_gate.bias                 F       optional
mlp.up_proj.weight                   ffn_up.weight                 F E
mlp.up_proj.bias                     ffn_up.bias                   F       optional
mlp.down_proj.weight                 ffn_down.weight               E F
mlp.down_proj.bias                   ffn_down.bias                 E       optional
"""
QWEN2 = """
input_layernorm.weight               attn_norm.weight              E
self_attn.q_proj.weight              attn_q.weight                 Q E     rotary
self_attn.q_proj.bias                attn_q.bias                   Q       rotary
self_attn.k_proj.weight              attn_k.weight                 K E     rotary
self_attn.k_proj.bias                attn_k.bias                   K       rotary
self_attn.v_proj.weight              attn_v.weight                 K E
self_attn.v_proj.bias                attn_v.bias                   K
self_attn.o_proj.weight              attn_output.weight            E Q
post_attention_layernorm.weight      ffn_norm.weight               E
mlp.gate_proj.weight                 ffn_gate.weight               F E
mlp.up_proj.weight                   ffn_up.weight                 F E
mlp.down_proj.weight                 ffn_down.weight               E F
"""
QWEN3 = """
input_layernorm.weight               attn_norm.weight              E
self_attn.q_proj.weight              attn_q.weight                 Q E     rotary
self_attn.q_norm.weight              attn_q_norm.weight            D
self_attn.k_proj.weight              attn_k.weight                 K E     rotary
self_attn.k_norm.weight              attn_k_norm.weight            D
self_attn.v_proj.weight              attn_v.weight                 K E
self_attn.o_proj.weight              attn_output.weight            E Q
post_attention_layernorm.weight      ffn_norm.weight               E
mlp.gate_proj.weight                 ffn_gate.weight               F E
mlp.up_proj.weight                   ffn_up.weight                 F E
mlp.down_proj.weight                 ffn_down.weight               E F
"""
GEMMA_OUTSIDE = """
model.embed_tokens.weight            token_embd.weight             V E
model.norm.weight                    output_norm.weight            E       +1
lm_head.weight                       output.weight                 V E     optional
"""
GEMMA = """
input_layernorm.weight               attn_norm.weight              E       +1
self_attn.k_proj.weight              attn_k.weight                 K E     rotary
self_attn.v_proj.weight              attn_v.weight                 K E
self_attn.o_proj.weight              attn_output.weight            E Q
post_attention_layernorm.weight      post_attention_norm.weight    E       +1
pre_feedforward_layernorm.weight     ffn_norm.weight               E       +1
mlp.gate_proj.weight                 ffn_gate.weight               F E
mlp.up_proj.weight                   ffn_up.weight                 F E
mlp.down_proj.weight                 ffn_down.weight               E F
post_feedforward_layernorm.weight    post_ffw_norm.weight          E       +1
"""
GEMMA2 = f"""{GEMMA}
self_attn.q_proj.weight              attn_q.weight                 Q E     rotary query
"""
GEMMA3 = f"""{GEMMA}
self_attn.q_proj.weight              attn_q.weight                 Q E     rotary
self_attn.q_norm.weight              attn_q_norm.weight            D       +1 query
self_attn.k_norm.weight              attn_k_norm.weight            D       +1
"""
PHI3 = """
input_layernorm.weight               attn_norm.weight              E
self_attn.qkv_proj.weight            attn_qkv.weight               Q+2K E
self_attn.o_proj.weight              attn_output.weight            E Q
post_attention_layernorm.weight      ffn_norm.weight               E
mlp.gate_up_proj.weight              ffn_up.weight                 2F E
mlp.down_proj.weight                 ffn_down.weight               E F
"""
PHI3_APART = """
input_layernorm.weight               attn_norm.weight              E
self_attn.qkv_proj.weight            attn_q.weight                 Q E     @Q+2K:0 rotary
self_attn.qkv_proj.weight            attn_k.weight                 K E     @Q+2K:Q rotary
self_attn.qkv_proj.weight            attn_v.weight                 K E     @Q+2K:Q+K
self_attn.o_proj.weight              attn_output.weight            E Q
post_attention_layernorm.weight      ffn_norm.weight               E
mlp.gate_up_proj.weight              ffn_gate.weight               F E     @2F:0
mlp.gate_up_proj.weight              ffn_up.weight                 F E     @2F:F
mlp.down_proj.weight                 ffn_down.weight               E F
"""
GPT2_OUTSIDE = """
transformer.wte.weight               token_embd.weight             V E
transformer.wpe.weight               position_embd.weight          P E
transformer.ln_f.weight              output_norm.weight            E
transformer.ln_f.bias                output_norm.bias              E
lm_head.weight                       output.weight                 V E     optional
"""
GPT2 = """
ln_1.weight                          attn_norm.weight              E
ln_1.bias                            attn_norm.bias                E
attn.c_attn.weight                   attn_qkv.weight               3E E    turned
attn.c_attn.bias                     attn_qkv.bias                 3E
attn.c_proj.weight                   attn_output.weight            E E     turned
attn.c_proj.bias                     attn_output.bias              E
ln_2.weight                          ffn_norm.weight               E
ln_2.bias                            ffn_norm.bias                 E
mlp.c_fc.weight                      ffn_up.weight                 F E     turned
mlp.c_fc.bias                        ffn_up.bias                   F
mlp.c_proj.weight                    ffn_down.weight               E F     turned
mlp.c_proj.bias                      ffn_down.bias                 E
"""
