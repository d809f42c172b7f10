"""``shoal chat``: a conversation in the terminal, with any OpenAI-style server; by default the one that is up."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from services.cli import rundir
from services.cli.arguments import Arguments
from services.cli.screen import Screen
from services.common.errors import ConfigError, ShoalError

# A model may emit any character; those that steer a terminal are shown as a space.
_UNPRINTABLE = {code: " " for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
HELP = "/exit ends, /reset forgets the conversation, /system TEXT sets the system prompt, /help shows this"


class ChatError(ShoalError):
    """The server refused a message or went away. The conversation goes on without it."""

    code = "chat_failed"


@dataclass(slots=True)
class Conversation:
    """Messages so far; a failed turn leaves none."""

    system: str = ""
    turns: list[dict[str, str]] = field(default_factory=list)

    def messages(self, text: str) -> list[dict[str, str]]:
        head = [{"role": "system", "content": self.system}] if self.system else []
        return [*head, *self.turns, {"role": "user", "content": text}]

    def add(self, text: str, answer: str) -> None:
        self.turns += [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]


@dataclass(slots=True)
class Answer:
    """What came, and how fast: seconds to the first text and after it, and the server's count of tokens."""

    text: str = ""
    num_tokens: int = 0
    first_s: float = 0.0
    rest_s: float = 0.0

    def speed(self) -> str:
        if not self.num_tokens:
            return ""
        rate = (self.num_tokens - 1) / self.rest_s if self.rest_s > 0 and self.num_tokens > 1 else 0.0
        after = f", then {rate:.0f} tokens/s" if rate else ""
        return f"{self.num_tokens} tokens; the first after {self.first_s * 1000:.0f} ms{after}"


def events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The data of server-sent events, as JSON, up to [DONE]. Raises ChatError for an error event."""
    for line in lines:
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            return
        event = json.loads(data)
        if "error" in event:
            raise ChatError(event["error"].get("message", "the server ended the answer with an error"))
        yield event


def ask(client: httpx.Client, body: dict[str, Any], screen: Screen) -> Answer:
    """Sends one turn and shows the answer while it comes. Raises ChatError."""
    answer, began, first = Answer(), time.monotonic(), 0.0
    try:
        with client.stream("POST", "/chat/completions", json=body) as response:
            if response.status_code != 200:
                raise ChatError(_reason(response))
            for event in events(response.iter_lines()):
                answer.num_tokens = (event.get("usage") or {}).get("completion_tokens", answer.num_tokens)
                for choice in event.get("choices", []):
                    text = (choice.get("delta") or {}).get("content") or ""
                    if text and not first:
                        first = time.monotonic()
                    answer.text += text
                    screen.write(text.translate(_UNPRINTABLE))
    except httpx.HTTPError as error:
        raise ChatError(f"{client.base_url}: {error or type(error).__name__}") from error
    finally:
        screen.line()
    if first:
        answer.first_s, answer.rest_s = first - began, time.monotonic() - first
    return answer


def _reason(response: httpx.Response) -> str:
    try:
        return str(json.loads(response.read())["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"status {response.status_code}"


def main(argv: list[str]) -> int:
    arguments = Arguments(prog="./shoal chat", description="Talk to the model in the terminal.", epilog=HELP)
    arguments.add_run_choice()
    arguments.add_argument("prompt", nargs="*", help="ask this and end; without it, a conversation")
    arguments.add_argument("--base-url", default="", help="a server's address up to /v1")
    arguments.add_argument("--api-key", default=os.environ.get("SHOAL_API_KEY", ""))
    arguments.add_argument("--model", default="", help="model name; the server's first by default")
    arguments.add_argument("--system", default="", help="system prompt")
    arguments.add_argument("--temperature", type=float, default=None)
    arguments.add_argument("--max-tokens", type=int, default=None)
    flags = arguments.parse(argv)
    base_url, api_key = flags.base_url, flags.api_key
    if not base_url:
        run = rundir.choose_run(rundir.state_root(os.environ), flags.run)
        if not run.gateways:
            raise ConfigError(f"run {run.name} has no gateway yet; wait until `up` is ready")
        base_url, api_key = run.gateways[0] + "/v1", api_key or run.api_key
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    is_local = base_url.startswith("https://127.0.0.1") or base_url.startswith("https://localhost")
    with httpx.Client(
        base_url=base_url, headers=headers, timeout=httpx.Timeout(None, connect=5.0), verify=not is_local
    ) as client:
        options: dict[str, Any] = {"model": flags.model or _first_model(client), "stream": True}
        options["stream_options"] = {"include_usage": True}
        for name in ("temperature", "max_tokens"):
            if getattr(flags, name) is not None:
                options[name] = getattr(flags, name)
        conversation = Conversation(flags.system)
        once = " ".join(flags.prompt) or ("" if sys.stdin.isatty() else sys.stdin.read().strip())
        if once:
            ask(client, options | {"messages": conversation.messages(once)}, Screen())
            return 0
        return talk(client, options, conversation, Screen())


def _first_model(client: httpx.Client) -> str:
    try:
        response = client.get("/models")
    except httpx.HTTPError as error:
        raise ChatError(f"{client.base_url}: {error or type(error).__name__}") from error
    if response.status_code != 200:
        raise ChatError(_reason(response))
    return str(response.json()["data"][0]["id"])


def talk(client: httpx.Client, options: dict[str, Any], conversation: Conversation, screen: Screen) -> int:
    """Reads lines until /exit or the end of input."""
    screen.line(f"{options['model']} at {client.base_url}. {HELP}")
    while True:
        try:
            text = input(screen.paint("> ", "bold")).strip()
        except (EOFError, KeyboardInterrupt):
            screen.line()
            return 0
        if text in ("/exit", "/quit"):
            return 0
        if text.startswith("/"):
            _command(text, conversation, screen)
        elif text:
            _turn(client, options, conversation, text, screen)


def _command(text: str, conversation: Conversation, screen: Screen) -> None:
    name, _, rest = text.partition(" ")
    if name == "/reset":
        conversation.turns.clear()
        screen.line("Forgotten.")
    elif name == "/system":
        conversation.system = rest.strip()
        screen.line("System prompt set." if rest.strip() else "No system prompt.")
    else:
        screen.line(HELP)


def _turn(
    client: httpx.Client, options: dict[str, Any], conversation: Conversation, text: str, screen: Screen
) -> None:
    try:
        answer = ask(client, options | {"messages": conversation.messages(text)}, screen)
    except ChatError as error:
        screen.bad(error.message)
        return
    except (
        KeyboardInterrupt
    ):  # ends the answer, not the conversation; closing the connection frees its blocks
        screen.line("(stopped)")
        return
    conversation.add(text, answer.text)
    if answer.speed():
        screen.line(screen.paint(answer.speed(), "dim"))
