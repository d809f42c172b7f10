"""A request as the router holds it: what deciding needs, and the message's bytes to hand on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf

from services.common.blockhash import BlockChain, chain_root
from services.common.messages.codec import decode, encode
from services.common.messages.request import GenerateRequest

# What a request is expected to generate, at most, when its cost is estimated: clients rarely use all of a
# max_tokens that defaults to the model's limit.
EXPECTED_OUTPUT_TOKENS = 512


@dataclass(slots=True, eq=False)
class QueuedRequest:
    """One attempt of one request. Times are the event loop's, in seconds.

    The ids are kept packed, in ``data``: a line full of long prompts as Python lists would weigh ten times more.
    """

    request_id: str
    attempt: int
    gateway_id: str
    model: str
    tenant: str
    weight: float
    priority: int
    data: bytes  # the GenerateRequest as it came
    num_prompt_tokens: int  # with what the first choice has emitted: all of it must be computed
    num_total_tokens: int  # of the longest choice at its end
    num_choices: int
    is_resumed: bool  # its client has tokens already and waits in mid-stream
    cost_tokens: float  # what the tenant pays in the fair share
    arrived_at: float
    deadline: float = inf
    seq: int = 0  # place in the line; set by it
    is_dropped: bool = False  # cancelled or replaced while a worker was being asked
    cancelled_choices: set[int] = field(default_factory=set)
    decoded: GenerateRequest | None = None  # set while it arrives, so that it need not be decoded again
    _chains: dict[int, BlockChain] = field(default_factory=dict)

    def blocks(self, block_size: int) -> Iterable[bytes]:
        """Names of the full blocks that the prompt needs and a cache may have; each name is computed once.

        A prompt that is to be scored has none: its worker computes all of it.
        """
        if block_size <= 0:
            return ()
        if block_size not in self._chains:
            message = self.decoded or decode(GenerateRequest, self.data)
            root = chain_root(adapter=message.adapter, cache_salt=message.cache_salt)
            ids = message.prompt_ids + (message.choices[0].output_ids if message.choices else [])
            if message.prompt_logprobs >= 0:
                ids = []
            self._chains[block_size] = BlockChain(root, ids, block_size)
        return self._chains[block_size]

    def message(self, now: float) -> bytes:
        """The bytes for the worker. Time spent in the line is taken off the time left."""
        if self.deadline == inf:
            return self.data
        message = decode(GenerateRequest, self.data)
        message.timeout_s = max(0.001, self.deadline - now)
        return encode(message)


def queued_request(message: GenerateRequest, data: bytes, now: float) -> QueuedRequest:
    """What the router keeps of a message that arrived as ``data``. ``decoded`` is for its caller to drop."""
    emitted = [len(choice.output_ids) for choice in message.choices]
    num_prompt = len(message.prompt_ids)
    expected = min(message.sampling.max_tokens, EXPECTED_OUTPUT_TOKENS)
    return QueuedRequest(
        request_id=message.request_id,
        attempt=message.attempt,
        gateway_id=message.gateway_id,
        model=message.model,
        tenant=message.tenant,
        weight=max(message.weight, 1e-3),
        priority=message.priority,
        data=data,
        num_prompt_tokens=num_prompt + (emitted[0] if emitted else 0),
        num_total_tokens=num_prompt + message.sampling.max_tokens,
        num_choices=max(1, len(message.choices)),
        is_resumed=any(emitted),
        cost_tokens=num_prompt + expected * max(1, len(message.choices)),
        arrived_at=now,
        deadline=now + message.timeout_s if message.timeout_s > 0 else inf,
        decoded=message,
    )
