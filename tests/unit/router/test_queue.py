import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.common.messages.codec import encode
from services.common.messages.request import ChoiceState
from services.router.order import FairOrder
from services.router.queue import DrainRate, Line
from services.router.request import queued_request
from tests.fakes.workers import generate_request


def waiting(request_id, *, tenant="", weight=1.0, priority=0, prompt=10, now=0.0, **fields):
    message = generate_request(
        request_id, [1] * prompt, tenant=tenant, weight=weight, priority=priority, **fields
    )
    return queued_request(message, encode(message), now)


def names(line):
    found = []
    while (request := line.pop()) is not None:
        found.append(request.request_id)
    return found


def test_fcfs_keeps_the_order_of_arrival():
    line = Line("fcfs", 10)
    for i, priority in enumerate([3, 1, 2]):
        line.push(waiting(f"r{i}", priority=priority))
    assert names(line) == ["r0", "r1", "r2"]


def test_priority_puts_lower_values_first_and_keeps_arrival_among_equals():
    line = Line("priority", 10)
    for i, priority in enumerate([1, 0, 1, -1, 0]):
        line.push(waiting(f"r{i}", priority=priority))
    assert names(line) == ["r3", "r1", "r4", "r0", "r2"]


def test_a_tenant_with_1000_requests_does_not_starve_one_with_1():
    line = Line("fair", 2000)
    for i in range(1000):
        line.push(waiting(f"many{i}", tenant="many"))
    for _ in range(10):
        line.pop()
    line.push(waiting("single", tenant="single"))
    assert "single" in [line.pop().request_id, line.pop().request_id]


def test_a_full_line_has_a_place_for_a_tenant_under_its_share():
    line = Line("fair", 1000)
    for i in range(1000):
        request = waiting(f"many{i}", tenant="many")
        assert line.can_admit(request)
        line.push(request)
    assert not line.can_admit(waiting("one more", tenant="many"))
    assert line.can_admit(waiting("single", tenant="single"))


def test_no_number_of_tenants_fills_a_line_beyond_twice_its_size():
    line = Line("fair", 8)
    for i in range(100):
        request = waiting(f"r{i}", tenant=f"t{i}")
        if line.can_admit(request):
            line.push(request)
    assert 8 <= len(line) <= 16


@pytest.mark.parametrize("policy", ["fcfs", "priority"])
def test_a_line_without_fairness_is_full_for_all_alike(policy):
    line = Line(policy, 2)
    for i in range(2):
        line.push(waiting(f"r{i}", tenant="a"))
    assert not line.can_admit(waiting("r2", tenant="b"))


def test_later_attempts_are_admitted_to_a_full_line():
    line = Line("fair", 0)
    assert not line.can_admit(waiting("r"))
    assert line.can_admit(waiting("r", attempt=2))


def test_a_line_is_bounded_in_bytes_too():
    line = Line("fair", 1000, max_bytes=5000)
    while line.can_admit(request := waiting(f"r{len(line)}", prompt=200)):
        line.push(request)
    assert 0 < line.num_bytes <= 5000


def test_resumed_and_returned_requests_go_before_all_others():
    line = Line("fair", 10)
    line.push(waiting("first"))
    line.push(waiting("second"))
    line.push(waiting("resumed", attempt=2, choices=[ChoiceState(0, 1, [5, 6])]))
    resumed = line.pop()
    returned = line.pop()
    assert (resumed.request_id, returned.request_id) == ("resumed", "first")
    line.put_back(returned)
    assert names(line) == ["first", "second"]


def test_a_later_attempt_without_output_does_not_jump_the_line():
    line = Line("fair", 10)
    line.push(waiting("first"))
    line.push(waiting("bounced", attempt=2))
    assert names(line) == ["first", "bounced"]


def test_priority_orders_within_a_tenant_but_not_across_tenants():
    line = Line("fair", 10)
    line.push(waiting("a-late", tenant="a", priority=5))
    line.push(waiting("a-soon", tenant="a", priority=-5))
    line.push(waiting("b", tenant="b", priority=99))
    assert names(line) == ["a-soon", "b", "a-late"]


def test_deadlines_count_from_arrival():
    line = Line("fair", 10)
    line.push(waiting("short", timeout_s=1.0, now=10.0))
    line.push(waiting("long", timeout_s=5.0, now=10.0))
    line.push(waiting("none", now=10.0))
    assert line.expire(10.9) == []
    assert [r.request_id for r in line.expire(11.0)] == ["short"]
    assert [r.request_id for r in line.expire(1e9)] == ["long"]
    assert names(line) == ["none"]


def serve(requests, num):
    """Tokens given to each tenant in the first ``num`` places of a line that held all ``requests``."""
    line = Line("fair", len(requests) + 1)
    for request in requests:
        line.push(request)
    given_tokens = {}
    for _ in range(num):
        request = line.pop()
        given_tokens[request.tenant] = given_tokens.get(request.tenant, 0) + request.cost_tokens
    return given_tokens


@settings(deadline=None, max_examples=30)
@given(
    weights=st.lists(st.sampled_from([0.5, 1.0, 2.0, 4.0]), min_size=2, max_size=6),
    max_prompt=st.integers(1, 300),
    seed=st.integers(0, 2**32),
)
def test_backlogged_tenants_get_tokens_in_proportion_to_their_weights(weights, max_prompt, seed):
    """The bound of start-time fair queueing: shares differ by at most one largest request of each."""
    rng = random.Random(seed)
    requests = [
        waiting(f"{t}-{i}", tenant=f"t{t}", weight=weight, prompt=rng.randint(1, max_prompt))
        for t, weight in enumerate(weights)
        for i in range(60)
    ]
    rng.shuffle(requests)
    given_tokens = serve(requests, 60)  # nobody's 60 requests can be used up before
    largest = max(request.cost_tokens for request in requests)
    served = [given_tokens.get(f"t{t}", 0) / weight for t, weight in enumerate(weights)]
    slack = [largest / weight for weight in weights]
    for i in range(len(weights)):
        for j in range(len(weights)):
            assert abs(served[i] - served[j]) <= slack[i] + slack[j] + 1e-6


class LineMachine(RuleBasedStateMachine):
    """Any mix of operations, against a plain dictionary of who waits."""

    def __init__(self):
        super().__init__()
        self.line = Line("fair", 5)
        self.model = {}
        self.popped = []
        self.now = 0.0
        self.count = 0

    @rule(
        tenant=st.sampled_from("abc"),
        weight=st.sampled_from([0.5, 1, 3]),
        priority=st.integers(-2, 2),
        timeout=st.sampled_from([0, 1, 5]),
        emitted=st.sampled_from([0, 0, 3]),
    )
    def push(self, tenant, weight, priority, timeout, emitted):
        self.count += 1
        request = waiting(
            f"r{self.count}",
            tenant=tenant,
            weight=weight,
            priority=priority,
            timeout_s=float(timeout),
            now=self.now,
            choices=[ChoiceState(0, 1, [9] * emitted)],
            attempt=2 if emitted else 1,
        )
        if self.line.can_admit(request):
            self.line.push(request)
            self.model[request.request_id] = request
        else:
            assert len(self.model) >= 5

    @rule()
    def pop(self):
        peeked = self.line.peek()
        request = self.line.pop()
        assert request is peeked
        assert (request is None) == (not self.model)
        if request:
            assert self.model.pop(request.request_id) is request
            self.popped.append(request)

    @precondition(lambda self: self.popped)
    @rule()
    def put_back(self):
        request = self.popped.pop()
        self.line.put_back(request)
        self.model[request.request_id] = request

    @rule(data=st.data())
    def remove(self, data):
        request_id = data.draw(st.sampled_from([*sorted(self.model), "unknown"]))
        assert self.line.remove(request_id) is self.model.pop(request_id, None)

    @rule(seconds=st.sampled_from([0.5, 2]))
    def time_passes(self, seconds):
        self.now += seconds
        expired = {r.request_id for r in self.line.expire(self.now)}
        assert expired == {k for k, r in self.model.items() if r.deadline <= self.now}
        for request_id in expired:
            del self.model[request_id]

    @invariant()
    def agrees(self):
        assert {r.request_id: r for r in self.line} == self.model
        self.line.check()
        assert isinstance(self.line._order, FairOrder)
        self.line._order.check()


TestLine = LineMachine.TestCase
TestLine.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


def test_retry_after_follows_the_rate_at_which_requests_leave():
    rate = DrainRate()
    assert rate.seconds_for(1, 0.0) == 60  # nothing has ever left
    for i in range(1000):
        rate.record(i * 0.1)
    assert rate.seconds_for(100, 100.0) == pytest.approx(10, abs=1)
    assert rate.seconds_for(1, 100.0) == 1
    assert rate.seconds_for(100, 1000.0) == 60  # it has stopped
