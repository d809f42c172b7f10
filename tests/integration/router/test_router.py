import asyncio
import random

import pytest

from services.common.messages.codec import encode
from services.common.messages.control import Cancel
from services.common.messages.request import ChoiceState, SubmitReply, stream_id
from tests.fakes.waiting import until
from tests.fakes.workers import random_prompt


async def fill(worker, gateway):
    """Submits as many as a worker takes; returns their ids."""
    ids = [f"fill{i}" for i in range(worker.capacity)]
    for request_id in ids:
        assert (await gateway.submit(request_id)).accepted
    await until(lambda: len(worker.held) == len(ids))
    return ids


async def test_a_request_goes_to_a_worker_with_room(stage):
    await stage.router()
    worker, gateway = await stage.worker(), await stage.gateway()
    reply = await gateway.submit("r", [5, 6, 7], tenant="t")
    assert (reply.accepted, reply.holder_id) == (True, "router")
    await until(lambda: worker.accepted == [("r", 1)])
    assert worker.held["r"].prompt_ids == [5, 6, 7]
    assert worker.held["r"].tenant == "t"


async def test_a_request_waits_while_workers_are_full_and_its_router_says_so(stage):
    await stage.router()
    worker, gateway = await stage.worker(), await stage.gateway()
    running = await fill(worker, gateway)
    assert (await gateway.submit("next")).accepted
    await until(lambda: gateway.held_by("router") == ["next"])
    worker.finish(running[0])
    await until(lambda: "next" in worker.held)
    assert gateway.bounced == []


async def test_a_request_that_a_worker_returns_stays_at_the_front(stage):
    await stage.router()
    worker, gateway = await stage.worker(room=2, max_waiting=0), await stage.gateway()
    for i in range(8):
        await gateway.submit(f"r{i}")
    for i in range(8):
        await until(lambda done=i: f"r{done}" in worker.held)
        worker.finish(f"r{i}")
    assert worker.accepted == [(f"r{i}", 1) for i in range(8)]
    assert worker.most_held == 2


async def test_a_request_for_a_model_without_workers_waits_for_one(stage):
    await stage.router()
    gateway = await stage.gateway()
    assert (await gateway.submit("r", model="later")).accepted
    worker = await stage.worker(model="later")
    await until(lambda: "r" in worker.held)


async def test_a_worker_that_is_gone_is_passed_over(stage):
    """Its subscription is gone, so it cannot have the request: another gets the same attempt."""
    await stage.router()
    gateway = await stage.gateway()
    dead = await stage.worker("dead", room=100)
    await dead.kill()
    live = await stage.worker("live", room=100)
    for i in range(8):
        await gateway.submit(f"r{i}")
    await until(lambda: len(live.accepted) == 8)
    assert gateway.bounced == []


async def test_a_worker_that_does_not_answer_makes_the_gateway_submit_again(stage):
    await stage.router()
    silent, gateway = await stage.worker(is_silent=True), await stage.gateway()
    await gateway.submit("r")
    await until(lambda: gateway.bounced)
    assert (gateway.bounced[0].request_ids, gateway.bounced[0].attempts) == (["r"], [1])
    assert gateway.bounced[0].code == ""
    silent.is_silent = False
    assert (await gateway.submit("r", attempt=2)).accepted
    await until(lambda: silent.accepted == [("r", 2)])


async def test_a_worker_whose_beats_are_missing_is_not_asked_though_it_is_not_dead_yet(stage):
    router = await stage.router()
    paused, other = await stage.worker("paused"), await stage.worker("other")
    gateway = await stage.gateway()
    assert paused.runtime is not None
    paused.runtime._beats.cancel()
    paused.is_silent = True  # as a stopped process: what it is asked it keeps, unanswered
    worker = router.app._fleet.get("paused")
    await until(lambda: worker.is_overdue)
    for i in range(4):
        await gateway.submit(f"r{i}")
    await until(lambda: len(other.accepted) == 4)
    assert (gateway.bounced, paused.unanswered) == ([], [])


async def test_what_a_worker_refuses_for_good_reaches_the_gateway_with_its_code(stage):
    await stage.router()
    await stage.worker(refuse_code="engine_failure")
    gateway = await stage.gateway()
    assert (await gateway.submit("r")).accepted
    await until(lambda: gateway.bounced)
    assert gateway.bounced[0].code == "engine_failure"


async def test_what_no_worker_can_hold_is_refused_at_once_with_the_limit(stage):
    await stage.router()
    await stage.worker("small", max_request_tokens=50)
    large = await stage.worker("large", max_request_tokens=100)
    gateway = await stage.gateway()
    reply = await gateway.submit("long", [1] * 90, max_tokens=11)
    assert (reply.accepted, reply.retry, reply.code) == (False, False, "context_length_exceeded")
    assert "100 tokens" in reply.reason
    for i in range(4):
        assert (await gateway.submit(f"fits{i}", [1] * 90, max_tokens=10)).accepted
    await until(lambda: len(large.held) == 4)


async def test_a_full_line_refuses_with_retry_after(stage):
    await stage.router("router", "--max_queue", "2")
    gateway = await stage.gateway()
    assert [(await gateway.submit(f"r{i}")).accepted for i in range(2)] == [True, True]
    reply = await gateway.submit("r2")
    assert (reply.accepted, reply.code) == (False, "queue_full")
    assert reply.retry_after_s >= 1
    assert (await gateway.submit("other", tenant="other")).accepted  # under its share
    assert (await gateway.submit("again", attempt=2)).accepted  # admitted before


async def test_without_a_line_only_what_starts_at_once_is_taken(stage):
    await stage.router("router", "--max_queue", "0")
    worker, gateway = await stage.worker(), await stage.gateway()
    await fill(worker, gateway)
    assert (await gateway.submit("late")).code == "queue_full"


async def test_duplicates_have_no_effect_and_lower_attempts_are_refused(stage):
    await stage.router()
    gateway = await stage.gateway()
    assert (await gateway.submit("r", attempt=2)).accepted
    assert (await gateway.submit("r", attempt=2)).accepted
    assert not (await gateway.submit("r", attempt=1)).accepted
    await until(lambda: gateway.held_by("router") == ["r"])
    assert (await gateway.submit("r", [9], attempt=3)).accepted
    worker = await stage.worker()
    await until(lambda: worker.accepted)
    assert (await gateway.submit("r", attempt=3)).accepted
    await asyncio.sleep(0.05)
    assert worker.accepted == [("r", 3)]
    assert worker.held["r"].prompt_ids == [9]


async def test_cancelling_empties_the_line(stage):
    await stage.router()
    gateway = await stage.gateway()
    await gateway.submit("waits", attempt=2)
    await gateway.submit("stays")
    await gateway.cancel("waits", attempt=1)  # an older attempt's
    await until(lambda: set(gateway.held_by("router")) == {"waits", "stays"})
    await gateway.cancel("waits", attempt=2)
    await until(lambda: gateway.held_by("router") == ["stays"])


async def test_cancelling_every_choice_cancels_the_request(stage):
    await stage.router()
    gateway = await stage.gateway()
    await gateway.submit("r", choices=[ChoiceState(0, 1), ChoiceState(1, 2)])
    await gateway.submit("stays")
    for choice in (0, 1):
        await until(lambda: set(gateway.held_by("router")) == {"r", "stays"})
        cancel = Cancel(streams=[stream_id("r", choice)], stream_attempts=[1])
        await gateway.bus.publish(gateway.subjects.cancel(), encode(cancel))
    await until(lambda: gateway.held_by("router") == ["stays"])


async def test_a_cancel_that_crosses_the_hand_over_follows_to_the_worker(stage):
    await stage.router()
    worker, gateway = await stage.worker(is_silent=True), await stage.gateway()
    await gateway.submit("r")
    dispatcher = stage.routers["router"].app._dispatcher
    await until(lambda: dispatcher.num_unanswered)
    request = next(iter(dispatcher.holdings()))
    await gateway.cancel("r")
    await until(lambda: request.is_dropped)
    late = SubmitReply(True, worker.worker_id)
    await worker.bus.publish(worker.unanswered[0].reply, encode(late))
    await until(lambda: worker.cancelled == ["r"])
    assert gateway.bounced == []


async def test_a_request_past_its_deadline_leaves_the_line(stage):
    await stage.router()
    gateway = await stage.gateway()
    await gateway.submit("short", timeout_s=1.5)
    await gateway.submit("long", timeout_s=60.0)
    await until(lambda: set(gateway.held_by("router")) == {"short", "long"})
    await until(lambda: gateway.held_by("router") == ["long"])
    worker = await stage.worker()
    await until(lambda: worker.held)
    assert 50 < worker.held["long"].timeout_s < 60.0
    assert gateway.bounced == []


async def test_the_requests_of_a_dead_gateway_are_freed(stage):
    router = await stage.router()
    doomed, lives = await stage.gateway("doomed"), await stage.gateway("lives")
    await doomed.submit("theirs")
    await lives.submit("ours")
    await until(lambda: router.app._dispatcher.num_waiting == 2)
    await doomed.bus.close()
    await until(lambda: router.app._dispatcher.num_waiting == 1)
    assert [r.request_id for r in router.app._dispatcher.holdings()] == ["ours"]


async def test_a_bus_that_is_away_kills_nobody(stage, nats_server):
    router = await stage.router()
    worker, gateway = await stage.worker(), await stage.gateway()
    await fill(worker, gateway)
    await gateway.submit("waits")
    await until(lambda: gateway.held_by("router") == ["waits"])
    nats_server.kill()
    await asyncio.sleep(4 * router.timing.lease_s)
    assert router.app._fleet.get("w") is not None
    assert router.app._dispatcher.num_waiting == 1
    nats_server.start()
    await until(lambda: router.bus.is_connected and worker.bus.is_connected)
    worker.finish("fill0")
    await until(lambda: "waits" in worker.held)


async def test_draining_gives_the_line_back_and_takes_nothing_new(stage):
    router = await stage.router()
    worker, gateway = await stage.worker(), await stage.gateway()
    running = await fill(worker, gateway)
    waiting = [f"r{i}" for i in range(5)]
    for request_id in waiting:
        await gateway.submit(request_id)
    await router.drain()
    await until(lambda: gateway.bounced)
    assert sorted(gateway.bounced_ids()) == waiting
    assert gateway.bounced[0].reason == "drain"
    assert sorted(worker.held) == running
    other = await stage.router("other")
    await until(lambda: other.app._fleet.get("w"))
    reply = await gateway.submit("new")
    assert (reply.accepted, reply.holder_id) == (True, "other")


# -- the cache ---------------------------------------------------------------------------------------------------


async def test_a_prompt_goes_where_its_prefix_is_cached(stage):
    await stage.router()
    rng = random.Random(1)
    prompt = random_prompt(rng, 2000)
    warm, cold = await stage.worker("warm", room=50), await stage.worker("cold", room=50)
    await warm.cache_prompt(prompt)
    await until(lambda: len(stage.routers["router"].app._index) == 500)
    gateway = await stage.gateway()
    for i in range(3):
        await gateway.submit(f"r{i}", [*prompt, i])
    await until(lambda: len(warm.held) == 3)
    await gateway.submit("salted", [*prompt, 0], cache_salt="other tenant")
    await until(lambda: list(cold.held) == ["salted"])


async def test_a_lost_event_is_made_good_by_a_snapshot(stage):
    router = await stage.router()
    rng, index = random.Random(2), router.app._index
    worker = await stage.worker(page_hashes=7)
    first = await worker.cache_prompt(random_prompt(rng, 120))
    await worker.change(removed=first[20:], publish=False)  # lost
    lost = await worker.cache_prompt(random_prompt(rng, 80), publish=False)
    last = await worker.cache_prompt(random_prompt(rng, 40))
    await until(lambda: set(index._holders) == set(worker.blocks))
    assert set(worker.blocks) == {*first[:20], *lost, *last}


async def test_a_worker_that_died_or_restarted_holds_nothing(stage):
    router = await stage.router()
    old = await stage.worker("w")
    blocks = await old.cache_prompt(random_prompt(random.Random(3), 40))
    await until(lambda: router.app._index.match(blocks) == {"w": 10})
    await old.kill()
    await stage.worker("w", epoch=2)
    await until(lambda: router.app._index.match(blocks) == {})
    assert router.app._fleet.get("w").epoch == 2
    await stage.workers["w"].kill()
    await until(lambda: router.app._fleet.get("w") is None)


# -- several routers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["cache_aware", "round_robin", "least_loaded"])
async def test_two_routers_give_every_request_to_one_worker_and_none_more_than_its_room(stage, method):
    for seed, name in enumerate(("a", "b")):
        await stage.router(name, "--load_balance_method", method, seed=seed)
    workers = [await stage.worker(f"w{i}", room=3, max_waiting=0) for i in range(3)]
    gateways = [await stage.gateway(f"gw{i}") for i in range(2)]
    ids = [f"r{i}" for i in range(120)]
    rng = random.Random(4)

    async def finish_all():
        done = 0
        while done < len(ids):
            for worker in workers:
                for request_id in list(worker.held):
                    if rng.random() < 0.5:
                        worker.finish(request_id)
                        done += 1
            await asyncio.sleep(0.005)

    submitting = [gateways[i % 2].submit(name, [i] * 9) for i, name in enumerate(ids)]
    replies, _ = await asyncio.gather(asyncio.gather(*submitting), finish_all())
    assert all(reply.accepted for reply in replies)
    assert {reply.holder_id for reply in replies} == {"a", "b"}
    accepted = [request_id for worker in workers for request_id, _ in worker.accepted]
    assert sorted(accepted) == sorted(ids)
    assert all(0 < worker.most_held <= worker.capacity for worker in workers)
    assert all(gateway.bounced == [] for gateway in gateways)
