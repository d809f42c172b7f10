"""The network that training runs: Qwen3 in plain PyTorch, with the parameter names of Hugging Face's Qwen3ForCausalLM.

Attention runs over packed rows: a token sees the earlier tokens of its own document only.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention

BLOCK = 128
"""Side of the blocks in which the attention mask is sparse, in tokens."""


@dataclass(frozen=True)
class Shape:
    """The sizes that a Qwen3 config names."""

    vocab_size: int = 8192
    hidden_size: int = 320
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    intermediate_size: int = 576
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 4096

    def hugging_face_config(self, end_id: int | None, pad_id: int | None) -> dict[str, Any]:
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            **asdict(self),
            "hidden_act": "silu",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
            "sliding_window": None,
            "max_window_layers": self.num_hidden_layers,
            "rope_scaling": None,
            "initializer_range": 0.02,
            "use_cache": True,
            "bos_token_id": None,
            "eos_token_id": end_id,
            "pad_token_id": pad_id,
            "torch_dtype": "bfloat16",
        }


class Norm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight, self.eps).to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding in the half-split form. x: [rows, heads, length, head_dim]; cos, sin: [length, head_dim / 2]."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Attention(nn.Module):
    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.head_dim = s.head_dim
        self.q_proj = nn.Linear(s.hidden_size, s.num_attention_heads * s.head_dim, bias=False)
        self.k_proj = nn.Linear(s.hidden_size, s.num_key_value_heads * s.head_dim, bias=False)
        self.v_proj = nn.Linear(s.hidden_size, s.num_key_value_heads * s.head_dim, bias=False)
        self.o_proj = nn.Linear(s.num_attention_heads * s.head_dim, s.hidden_size, bias=False)
        self.q_norm = Norm(s.head_dim, s.rms_norm_eps)
        self.k_norm = Norm(s.head_dim, s.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: BlockMask | Tensor) -> Tensor:
        rows, length, _ = x.shape

        def heads(y: Tensor) -> Tensor:
            return y.view(rows, length, -1, self.head_dim)

        q = rotate(self.q_norm(heads(self.q_proj(x))).transpose(1, 2), cos, sin)
        k = rotate(self.k_norm(heads(self.k_proj(x))).transpose(1, 2), cos, sin)
        v = heads(self.v_proj(x)).transpose(1, 2)
        q, k = q.to(v.dtype), k.to(v.dtype)
        if isinstance(mask, BlockMask):
            y = flex_attention(q, k, v, block_mask=mask, enable_gqa=True)
        else:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        return self.o_proj(y.transpose(1, 2).reshape(rows, length, -1))


class Mlp(nn.Module):
    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(s.hidden_size, s.intermediate_size, bias=False)
        self.up_proj = nn.Linear(s.hidden_size, s.intermediate_size, bias=False)
        self.down_proj = nn.Linear(s.intermediate_size, s.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.input_layernorm = Norm(s.hidden_size, s.rms_norm_eps)
        self.self_attn = Attention(s)
        self.post_attention_layernorm = Norm(s.hidden_size, s.rms_norm_eps)
        self.mlp = Mlp(s)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: BlockMask | Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(s.vocab_size, s.hidden_size)
        self.layers = nn.ModuleList(Layer(s) for _ in range(s.num_hidden_layers))
        self.norm = Norm(s.hidden_size, s.rms_norm_eps)


class Network(nn.Module):
    """`forward` gives the mean loss over the chosen positions of packed rows."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Decoder(shape)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                std = 0.02 if "embed" in name else parameter.shape[1] ** -0.5
                nn.init.normal_(
                    parameter,
                    std=std / (2 * shape.num_hidden_layers) ** 0.5
                    if "o_proj" in name or "down_proj" in name
                    else std,
                )

    def hidden(self, ids: Tensor, mask: BlockMask | Tensor) -> Tensor:
        """ids [rows, length] -> final hidden states [rows, length, hidden_size]."""
        s = self.shape
        position = torch.arange(ids.shape[1], device=ids.device, dtype=torch.float32)
        exponent = torch.arange(0, s.head_dim, 2, device=ids.device, dtype=torch.float32) / s.head_dim
        angle = torch.outer(position, s.rope_theta**-exponent)
        cos, sin = angle.cos(), angle.sin()
        x = self.model.embed_tokens(ids)
        for layer in self.model.layers:
            x = layer(x, cos, sin, mask)
        return self.model.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.model.embed_tokens.weight)

    def forward(self, ids: Tensor, mask: BlockMask | Tensor, chosen: Tensor, labels: Tensor) -> Tensor:
        """`chosen`: flat positions [n] whose next token counts; `labels`: those tokens [n], -100 for none."""
        hidden = self.hidden(ids, mask).flatten(0, 1)[chosen]
        return F.cross_entropy(self.logits(hidden).float(), labels, ignore_index=-100)


def dense_mask(document: Tensor) -> Tensor:
    """[rows, 1, length, length] boolean mask, for devices without block-sparse attention."""
    length = document.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=document.device).tril()
    return (causal & (document[:, :, None] == document[:, None, :]))[:, None]


def block_mask(document: Tensor) -> BlockMask:
    """The same mask in blocks. `document` [rows, length] rises along a row, so a block's ends bound it."""

    def allowed(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (document[row, query] == document[row, key])

    blocks = document.view(document.shape[0], -1, BLOCK)
    low, high = blocks[..., 0], blocks[..., -1]
    index = torch.arange(low.shape[1], device=document.device)
    touches = (index[:, None] >= index[None, :]) & (high[:, None, :] >= low[:, :, None])
    inside = (index[:, None] > index[None, :]) & (low[:, None, :] == high[:, :, None])
    partial_count, partial_order = _ordered(touches & ~inside)
    full_count, full_order = _ordered(inside)
    return BlockMask.from_kv_blocks(
        partial_count, partial_order, full_count, full_order, BLOCK_SIZE=BLOCK, mask_mod=allowed
    )


def _ordered(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Number of chosen key blocks of each query block, and the key blocks with the chosen ones first."""
    order = chosen.int().argsort(dim=-1, descending=True, stable=True).int()
    return chosen.sum(-1, dtype=torch.int32)[:, None].contiguous(), order[:, None].contiguous()
