"""Llama, and the decoder that the other dense families vary by configuration."""

from __future__ import annotations

from torch import Tensor

from services.worker.layers.attention import (
    Attention,
    AttentionShape,
    KVPool,
    LayerKV,
    SampledRows,
    StepMeta,
)
from services.worker.layers.build import Build
from services.worker.layers.embedding import VocabParallelEmbedding
from services.worker.layers.linear import stream_rows
from services.worker.layers.mlp import GatedMLP
from services.worker.layers.norm import RMSNorm
from services.worker.models.config import Fields, ModelConfig, dense_config


class DecoderLayer:
    """Attention and MLP, each on the normalised residual stream and added back to it."""

    def __init__(self, build: Build, name: str, config: ModelConfig, layer: int) -> None:
        self.input_norm = RMSNorm(build, f"{name}.input_layernorm", config.hidden_size, config.rms_norm_eps)
        self.attention = Attention(build, f"{name}.self_attn", attention_shape(config, layer))
        self.mlp_norm = RMSNorm(
            build, f"{name}.post_attention_layernorm", config.hidden_size, config.rms_norm_eps
        )
        self.mlp = GatedMLP(
            build, f"{name}.mlp", config.hidden_size, config.intermediate_size, config.mlp_bias
        )

    def __call__(
        self,
        x: Tensor,
        stream: Tensor,
        next_norm: RMSNorm,
        positions: Tensor,
        kv: LayerKV,
        meta: StepMeta,
        only: SampledRows | None = None,
    ) -> Tensor:
        """x [T, H], the residual stream as `input_norm` left it, to the stream after this layer as `next_norm` has it.

        With `only` for these rows, of which `stream` [R, H] then is; keys and values are stored of all T tokens.
        """
        x = self.attention(x, stream, self.mlp_norm, positions, kv, meta, only)
        return self.mlp(x, stream, next_norm)

    @property
    def can_add(self) -> bool:
        """Whether `add_to` works."""
        return self.attention.o.can_add and self.mlp.can_add

    def add_to(
        self, stream: Tensor, positions: Tensor, kv: LayerKV, meta: StepMeta, only: SampledRows | None = None
    ) -> Tensor:
        """The layer on a residual stream [T, H] kept in one buffer: norms and additions ride in the products.

        Returns the stream; with `only`, that of these rows [R, H] in a buffer of its own.
        """
        stream = self.attention.add_to(stream, self.input_norm, positions, kv, meta, only)
        self.mlp.add_to(stream, self.mlp_norm)
        return stream


class LlamaForCausalLM:
    def __init__(self, config: ModelConfig, build: Build) -> None:
        """Loads this rank's part of the weights. Raises WeightsError or ConfigError."""
        self.config = config
        self._tp = build.tp
        self.embedding = VocabParallelEmbedding(
            build, "model.embed_tokens", config.vocab_size, config.hidden_size
        )
        self.layers = [
            DecoderLayer(build, f"model.layers.{layer}", config, layer) for layer in range(config.num_layers)
        ]
        norm = RMSNorm(build, "model.norm", config.hidden_size, config.rms_norm_eps)
        self.next_norms = [*(layer.input_norm for layer in self.layers[1:]), norm]
        self.head = self.embedding
        if not config.tie_embeddings:
            self.head = VocabParallelEmbedding(build, "lm_head", config.vocab_size, config.hidden_size)
        # Old checkpoints carry the RoPE frequencies; a tied head may be stored all the same.
        build.source.finish(("rotary_emb.inv_freq", *(("lm_head.weight",) if config.tie_embeddings else ())))

    @staticmethod
    def translate(fields: Fields) -> ModelConfig:
        bias = fields.flag("attention_bias", False)
        return dense_config(fields, qkv_bias=bias, o_bias=bias, mlp_bias=fields.flag("mlp_bias", False))

    def forward(self, ids: Tensor, positions: Tensor, kv: KVPool, meta: StepMeta) -> Tensor:
        """ids and positions int64 [T] to the final hidden states [T, H]; fills the pool at meta.slot_mapping.

        With `meta.sampled` to those of its rows [R, H]: beyond its keys and values the last layer runs for them alone.
        """
        stream, last = self.embedding(ids), self.layers[-1]
        if all(layer.can_add for layer in self.layers):
            for layer, layer_kv in zip(self.layers, kv.layers, strict=True):
                only = meta.sampled if layer is last else None
                stream = layer.add_to(stream, positions, layer_kv, meta, only)
            return self.next_norms[-1](stream)
        x = self.layers[0].input_norm(stream)
        for layer, layer_kv, next_norm in zip(self.layers, kv.layers, self.next_norms, strict=True):
            only = meta.sampled if layer is last else None
            if only is not None:
                stream = stream_rows(stream, only.tokens, self._tp)
            x = layer(x, stream, next_norm, positions, layer_kv, meta, only)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [R, H] to [R, V]."""
        return self.head.logits(hidden)


def attention_shape(config: ModelConfig, layer: int) -> AttentionShape:
    return AttentionShape(
        hidden_size=config.hidden_size,
        num_q_heads=config.num_q_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        qkv_bias=config.qkv_bias,
        o_bias=config.o_bias,
        qk_norm=config.qk_norm,
        norm_eps=config.rms_norm_eps,
        sliding_window=config.sliding_windows[layer],
    )
