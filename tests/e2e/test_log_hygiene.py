"""Nobody's words and keys are in what the services write down, down to the least severe level."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import httpx
import pytest

from tests.fakes.stack import Stack
from tests.fakes.tiny_model import make_model

KEY, WRONG_KEY = "sk-zebra-4711", "sk-okapi-0815"
PROMPT = "quokka narwhal axolotl"
STOP_NEVER_MET = "pangolin tapir"


@pytest.fixture(scope="module")
def secretive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    model = tmp_path_factory.mktemp("tiny-checkpoint")
    make_model(model)
    stack = Stack(tmp_path_factory.mktemp("secretive"), model, "--log_level", "debug")
    stack.env["SHOAL_API_KEYS"] = KEY
    with stack:
        yield stack


def written(stack: Stack) -> str:
    """Everything in log files and on the terminal of `up`."""
    files = list(stack.directory.rglob("*.log"))
    assert len(files) > 6, "one for each service"
    return "".join(path.read_text(errors="replace") for path in files)


def test_prompts_outputs_stop_strings_and_keys_are_written_nowhere(secretive: Stack) -> None:
    base_url, headers = secretive.base_urls[0], {"Authorization": f"Bearer {KEY}"}
    body = {
        "model": secretive.model,
        "prompt": PROMPT,
        "max_tokens": 40,
        "temperature": 0,
        "ignore_eos": True,
    }
    with httpx.Client(base_url=base_url, headers=headers, timeout=60) as http:

        def ask(path: str = "/v1/completions", **fields: object) -> httpx.Response:
            return http.post(path, json=body | fields)

        whole = ask(stop=STOP_NEVER_MET)
        assert whole.status_code == 200, whole.text
        text = str(whole.json()["choices"][0]["text"])
        stop = text[8:20]
        stopped = ask(stop=stop, stream=False)
        assert stopped.json()["choices"][0]["stop_reason"] == stop
        chat = ask("/v1/chat/completions", messages=[{"role": "user", "content": PROMPT}], prompt=None)
        refused = [ask(temperature=PROMPT), ask(stop=[PROMPT] * 99), ask(model=PROMPT)]
        assert [answer.status_code // 100 for answer in refused] == [4, 4, 4]
        unknown = http.post("/v1/completions", json=body, headers={"Authorization": f"Bearer {WRONG_KEY}"})
        assert unknown.status_code == 401
        names = [answer.headers["x-request-id"] for answer in (whole, stopped)]
        assert chat.status_code in (200, 400), "the tiny model has no template"
    traces = "".join(secretive.cli("trace", name).stdout for name in names)
    assert "a stop string" in traces, "the trace says that one ended it, and not which"
    records = written(secretive) + traces
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    assert names[0] in records, "this is where it would have been"
    for secret in (KEY, WRONG_KEY, digest[:12], STOP_NEVER_MET, text, stop, *PROMPT.split()):
        assert secret not in records
