"""The hub's thread: events arrive in order and in batches, and a dead hub is told of."""

import asyncio

from tests.control.fake_hub import FakeHub
from tulle.control.hub import BATCH_EVENTS_MAX, HubLoop


def run(scene):
    return asyncio.run(asyncio.wait_for(scene, 10))


def test_events_arrive_in_order():
    async def scene():
        hub, done = FakeHub(), asyncio.Event()
        seen: list[int] = []
        batches: list[int] = []

        def failed(error):
            raise AssertionError from error

        def handle(events):
            batches.append(len(events))
            seen.extend(event.body["number"] for event in events)
            if len(seen) == 1000:
                done.set()

        loop = HubLoop(hub, handle, failed)
        for number in range(1000):
            hub.emit("ack", number=number)
        loop.start()
        await done.wait()
        await loop.stop()
        return seen, batches

    seen, batches = run(scene())
    assert seen == list(range(1000))
    assert max(batches) == BATCH_EVENTS_MAX


def test_a_handler_that_fails_is_told_of():
    async def scene():
        hub, failed = FakeHub(), asyncio.get_running_loop().create_future()

        def handle(events):
            raise RuntimeError("broken")

        loop = HubLoop(hub, handle, failed.set_result)
        hub.emit("ack", number=1)
        loop.start()
        error = await failed
        await loop.stop()
        return error

    assert str(run(scene())) == "broken"
