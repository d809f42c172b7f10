"""The whole stack on CPU against transformers' generate: ``python -m bench.cpu_serving [--model_dir DIR]``.

One client and sixteen clients stream greedy completions through gateway, router, worker and detokenizer;
transformers generates the same tokens in a process of its own. The three are measured in turn, several rounds, on
the same machine, and compared as ratios of medians, because such machines are noisy.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from services.common.model_files import DEMO_MODEL
from tests.fakes.stack import Stack

PROMPT = "Once upon a time there was a fox who"


def generate_forever(model_dir: str, tokens: int) -> None:
    """Transformers' side: one generation for each line on stdin, its tokens/s on stdout."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    inputs = tokenizer(PROMPT, return_tensors="pt")
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(**inputs, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
        made = out.shape[1] - inputs["input_ids"].shape[1]
        print(made / (time.perf_counter() - began), flush=True)


async def stream(client: httpx.AsyncClient, url: str, model: str, tokens: int) -> int:
    """One streamed completion; the number of tokens that its usage counts."""
    body = {
        "model": model,
        "prompt": PROMPT,
        "max_tokens": tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    made = 0
    async with client.stream("POST", url + "/v1/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                usage = json.loads(line[6:]).get("usage")
                made = usage["completion_tokens"] if usage else made
    return made


async def ours(url: str, model: str, clients: int, tokens: int) -> float:
    """Tokens/s of `clients` streams at once."""
    async with httpx.AsyncClient(timeout=300, limits=httpx.Limits(max_connections=None)) as client:
        began = time.perf_counter()
        made = await asyncio.gather(*(stream(client, url, model, tokens) for _ in range(clients)))
        return sum(made) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model_dir", default=str(DEMO_MODEL))
    parser.add_argument("--tokens", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--generate", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.generate:
        generate_forever(arguments.model_dir, arguments.tokens)
        return
    command = [sys.executable, "-m", "bench.cpu_serving", "--generate", "--model_dir", arguments.model_dir]
    command += ["--tokens", str(arguments.tokens)]
    peer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert peer.stdin
    assert peer.stdout
    peer.stdout.readline()
    rates: dict[str, list[float]] = {"transformers": [], "one client": [], "sixteen clients": []}
    with tempfile.TemporaryDirectory() as folder, Stack(Path(folder), Path(arguments.model_dir)) as stack:
        url, model = stack.base_urls[0], stack.model
        for number in range(arguments.rounds + 1):  # the first round warms up
            peer.stdin.write("\n")
            peer.stdin.flush()
            rates["transformers"].append(float(peer.stdout.readline()))
            rates["one client"].append(asyncio.run(ours(url, model, 1, arguments.tokens)))
            rates["sixteen clients"].append(asyncio.run(ours(url, model, 16, arguments.tokens)))
            print(f"round {number}: " + ", ".join(f"{k} {v[-1]:.0f} tokens/s" for k, v in rates.items()))
    peer.stdin.close()
    peer.wait()
    medians = {name: statistics.median(values[1:]) for name, values in rates.items()}
    result = {
        "date": time.strftime("%Y-%m-%d"),
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True
        ).stdout.strip(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "model": Path(arguments.model_dir).name,
        "tokens": arguments.tokens,
        "rounds": arguments.rounds,
        "tokens_per_s": {k: round(v, 1) for k, v in medians.items()},
        "one client / transformers": round(medians["one client"] / medians["transformers"], 2),
        "sixteen clients / transformers": round(medians["sixteen clients"] / medians["transformers"], 2),
    }
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
