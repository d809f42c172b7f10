"""Answers of the demo model through plain `transformers`, in batches of similar length."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from demo.answers import Reply, parse
from demo.data.core import Case
from demo.evaluate import MAX_ANSWER_TOKENS, STORY_SKILL, STORY_TOKENS

TOKENS_PER_BATCH = 24_000
"""Prompt tokens of one batch at most, padding included: bounds the attention scores of long prompts."""


def replies(cases: list[Case], args: argparse.Namespace) -> list[Reply]:
    """One reply per case, in order. Greedy in float32; stories are sampled at temperature 0.8."""
    tokenizer = AutoTokenizer.from_pretrained(args.model_dir, padding_side="left")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = AutoModelForCausalLM.from_pretrained(args.model_dir, dtype=torch.float32).eval().to(device)
    torch.manual_seed(args.seed)
    prompts = [prompt_ids(tokenizer, case) for case in cases]
    result: list[Reply | None] = [None] * len(cases)
    for sampled in (False, True):
        order = [i for i, case in enumerate(cases) if (case.skill == STORY_SKILL) == sampled]
        # Answers of like length end together; prompts of like length pad little.
        order.sort(key=lambda i: (len(prompts[i]) // 256, len(cases[i].answer), i))
        for batch in _batches(order, prompts, args.batch):
            for i, text in zip(
                batch, _generate(model, tokenizer, [prompts[i] for i in batch], sampled), strict=True
            ):
                result[i] = parse(text)
    return [reply for reply in result if reply is not None]


def prompt_ids(tokenizer: PreTrainedTokenizerBase, case: Case) -> list[int]:
    text = tokenizer.apply_chat_template(
        list(case.messages), tools=list(case.tools) or None, add_generation_prompt=True, tokenize=False,
        enable_thinking=case.thought is not None,
    )  # fmt: skip
    return tokenizer(text, add_special_tokens=False).input_ids


def _batches(order: list[int], prompts: list[list[int]], size: int) -> list[list[int]]:
    batches: list[list[int]] = [[]]
    for i in order:
        longest = max((len(prompts[j]) for j in (*batches[-1], i)), default=0)
        if len(batches[-1]) == size or (batches[-1] and longest * (len(batches[-1]) + 1) > TOKENS_PER_BATCH):
            batches.append([])
        batches[-1].append(i)
    return [batch for batch in batches if batch]


def _generate(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]], sampled: bool
) -> list[str]:
    batch = tokenizer.pad({"input_ids": prompts}, return_tensors="pt").to(model.device)
    how = (
        {"do_sample": True, "temperature": 0.8, "top_p": 1.0, "top_k": 0}
        if sampled
        else {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    )
    with torch.inference_mode():
        output = model.generate(**batch, max_new_tokens=STORY_TOKENS if sampled else MAX_ANSWER_TOKENS, **how)
    control = set(tokenizer.all_special_ids)
    answers = output[:, batch["input_ids"].shape[1] :].tolist()
    return [str(tokenizer.decode([token for token in row if token not in control])) for row in answers]
