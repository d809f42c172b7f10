"""Choosing a prefill backend; the libraries themselves are not installed where tests run."""

import logging

import pytest
import torch

from kernels.attention.backends import FlashAttention3, installed, log_refusal, prefill_backend
from kernels.attention.meta import AttentionMeta


class Picky(FlashAttention3):
    """Takes float32 only, and says so."""

    name = "picky"

    def can_run(self, q: torch.Tensor, k_cache: torch.Tensor) -> str | None:
        return None if q.dtype == torch.float32 else f"queries are {q.dtype}"


def name_in_table(monkeypatch: pytest.MonkeyPatch, **entries: str) -> None:
    monkeypatch.setattr("kernels.attention.backends.tuned", lambda device: entries)


def test_the_backend_that_the_table_names_is_used_and_each_refusal_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log_refusal.cache_clear()
    picky, cache = Picky(), torch.zeros(1)
    name_in_table(monkeypatch, prefill_backend="picky")
    assert prefill_backend(torch.zeros(1), cache, (FlashAttention3(), picky)) is picky
    with caplog.at_level(logging.INFO, logger="kernels.attention.backends"):
        for _ in range(3):
            assert prefill_backend(torch.zeros(1, dtype=torch.float16), cache, (picky,)) is None
    assert [record.getMessage() for record in caplog.records] == [
        "prefill backend picky is not used: queries are torch.float16"
    ]


def test_an_installed_library_that_no_table_names_does_not_displace_our_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name_in_table(monkeypatch)
    assert prefill_backend(torch.zeros(1), torch.zeros(1), (Picky(),)) is None


def test_a_name_that_no_backend_has_is_refused_with_those_there_are(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log_refusal.cache_clear()
    name_in_table(monkeypatch, prefill_backend="flashinfer")
    with caplog.at_level(logging.INFO, logger="kernels.attention.backends"):
        assert prefill_backend(torch.zeros(1), torch.zeros(1)) is None
    assert "flashinfer is not used: there is none of this name, only flash_attention_3" in caplog.text


def test_a_library_that_is_not_installed_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    installed.cache_clear()
    assert "not installed" in str(FlashAttention3().can_run(torch.zeros(1, 1, 64), torch.zeros(1, 1, 1, 64)))


def test_flash_attention_gets_the_prefill_rows_of_a_mixed_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Library:
        @staticmethod
        def flash_attn_with_kvcache(
            q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: object
        ) -> torch.Tensor:
            calls.append(options)
            return torch.ones_like(q)

    monkeypatch.setattr("importlib.import_module", lambda name: Library)
    meta = AttentionMeta(
        block_tables=torch.tensor([[1], [2], [3]]), seq_lens=torch.tensor([9, 5, 7]),
        query_start=torch.tensor([0, 1, 4, 6]), num_decodes=1, max_query_len=3, max_seq_len=9,
    )  # fmt: skip
    out, cache = torch.zeros(6, 2, 8), torch.zeros(4, 4, 1, 8)
    FlashAttention3().run(torch.zeros(6, 2, 8), cache, cache, meta, 0.5, 4, out)
    assert out[0].eq(0).all()
    assert out[1:].eq(1).all()
    assert calls[0]["cu_seqlens_q"].tolist() == [1, 4, 6]
    assert calls[0]["cache_seqlens"].tolist() == [5, 7]
    assert calls[0]["window_size"] == (3, 0)
