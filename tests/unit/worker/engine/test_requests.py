from __future__ import annotations

import math
from typing import Any

import pytest

from services.common.errors import ContextLengthExceeded, InvalidValue, ShoalError, Unsupported
from services.common.messages.request import ChoiceState, GenerateRequest, SamplingParams
from services.worker.engine.messages import EngineInfo, Submit
from services.worker.engine.requests import SequenceFactory, check_request

INFO = EngineInfo(100, 16, 8, 200, 50, [2])


def request(**fields: Any) -> GenerateRequest:
    sampling = SamplingParams(**({"max_tokens": 10} | fields.pop("sampling", {})))
    base: dict[str, Any] = {
        "request_id": "r",
        "attempt": 1,
        "gateway_id": "g",
        "detokenizer_id": "d",
        "model": "m",
        "prompt_ids": [1, 2, 3],
        "choices": [ChoiceState(0, 7)],
        "sampling": sampling,
    }
    return GenerateRequest(**(base | fields))


def test_a_request_that_just_fits_passes() -> None:
    check_request(request(prompt_ids=[1] * 190), INFO)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"prompt_ids": [1] * 191}, ContextLengthExceeded),
        ({"prompt_ids": []}, InvalidValue),
        ({"choices": []}, InvalidValue),
        ({"prompt_ids": [1, 50]}, InvalidValue),
        ({"prompt_ids": [-1]}, InvalidValue),
        ({"choices": [ChoiceState(0, 1, [50])]}, InvalidValue),
        ({"sampling": {"max_tokens": -1}}, InvalidValue),
        ({"sampling": {"stop_token_ids": [99]}}, InvalidValue),
        ({"sampling": {"bad_words": [[1, 99]]}}, InvalidValue),
        ({"sampling": {"allowed_token_ids": [99]}}, InvalidValue),
        ({"sampling": {"logit_bias_ids": [1], "logit_bias_values": []}}, InvalidValue),
        ({"sampling": {"temperature": math.nan}}, InvalidValue),
        ({"sampling": {"temperature": -1.0}}, InvalidValue),
        ({"sampling": {"repetition_penalty": 0.0}}, InvalidValue),
        ({"adapter": "lora"}, Unsupported),
    ],
)
def test_what_could_never_run_is_refused(fields: dict[str, Any], error: type[ShoalError]) -> None:
    with pytest.raises(error):
        check_request(request(**fields), INFO)


def test_sequences_carry_seeds_priority_and_stop_ids() -> None:
    factory = SequenceFactory(16, [2], share_prefixes=True)
    made = request(choices=[ChoiceState(0, 7), ChoiceState(1, 8, [4, 5])], priority=3)
    made.sampling.stop_token_ids = [9]
    one, two = factory.make(Submit([11, 12], made))
    assert (one.handle, two.handle, two.num_outputs) == (11, 12, 2)
    assert (one.sampling.seed, two.sampling.seed) == (7, 8)
    assert one.stop_ids == {2, 9}
    assert one.order == (3, 0)
    assert one.order < two.order


def test_ignore_eos_keeps_the_requests_own_stop_ids() -> None:
    made = request(sampling={"ignore_eos": True, "stop_token_ids": [9]})
    (sequence,) = SequenceFactory(16, [2], share_prefixes=True).make(Submit([1], made))
    assert sequence.stop_ids == {9}


@pytest.mark.parametrize(("share", "equal"), [(True, True), (False, False)])
def test_requests_share_block_names_only_where_prefixes_are_shared(share: bool, equal: bool) -> None:
    factory = SequenceFactory(2, [], share_prefixes=share)
    chains = []
    for name in ("a", "b"):
        (sequence,) = factory.make(Submit([1], request(request_id=name)))
        sequence.chain.extend(sequence.ids, 2)
        chains.append(sequence.chain.names)
    assert (chains[0] == chains[1]) is equal
