from __future__ import annotations

import pytest

from services.common.errors import ConfigError, RateLimited, Unauthorized
from services.gateway.auth import KeyLimits, Keys


def test_keys_find_their_tenant_and_weight() -> None:
    keys = Keys(["a", "b=ben", "c=cleo:2.5"], KeyLimits())
    assert keys.find("Bearer b").tenant == "ben"
    assert keys.find("bearer c").weight == 2.5
    assert keys.find("Bearer a").tenant.startswith("key-")
    assert keys.find("Bearer b").cache_salt != keys.find("Bearer c").cache_salt


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic b", "Bearer bb", "b", "Bearer \udce9"])
def test_anything_else_is_refused(header: str) -> None:
    with pytest.raises(Unauthorized):
        Keys(["b=ben"], KeyLimits()).find(header)


def test_without_keys_everyone_is_the_same_caller_without_salt() -> None:
    keys = Keys([], KeyLimits())
    assert keys.find("") is keys.find("Bearer whatever")
    assert keys.find("").cache_salt == ""


@pytest.mark.parametrize("entry", ["=ben", "b=ben:x", "b=ben:0", "b=ben:-1", "b=ben:inf", "b=ben:nan"])
def test_entries_that_make_no_sense_are_refused_without_showing_the_key(entry: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Keys([entry], KeyLimits())
    assert "ben" not in caught.value.message


def test_requests_refill_evenly_over_a_minute() -> None:
    caller = Keys([], KeyLimits(requests_per_minute=60)).find("")
    for _ in range(60):
        caller.charge_request(100.0)
    with pytest.raises(RateLimited) as caught:
        caller.charge_request(100.0)
    assert caught.value.retry_after_s == pytest.approx(1.0)
    caller.charge_request(101.0)


def test_tokens_may_overshoot_once_and_are_waited_for_after() -> None:
    caller = Keys([], KeyLimits(tokens_per_minute=600)).find("")
    caller.charge_prompt(500, 10.0)
    caller.charge_output(300)
    with pytest.raises(RateLimited) as caught:
        caller.charge_prompt(1, 10.0)
    assert caught.value.retry_after_s == pytest.approx(20.1)
    caller.charge_prompt(1, 31.0)


def test_concurrency_is_bounded() -> None:
    caller = Keys([], KeyLimits(concurrency=2)).find("")
    caller.check_concurrency()
    caller.running = 2
    with pytest.raises(RateLimited):
        caller.check_concurrency()
