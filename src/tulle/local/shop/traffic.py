"""Customers: calls the shop's front at a steady rate and prints one line of totals each second.

$RATE is in pages per second, over all; $SNOOP the share of them that try the denied call.
"""

import asyncio
import itertools
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

from tulle.local.shop.serving import Client

OPEN_MAX = 64
"""Pages under way at a time; a slower shop gets fewer, never a queue."""

PAGES = ("/", "/product/1", "/product/2", "/product/3", "/checkout/{}", "/receipts")
WEIGHTS = (2, 4, 2, 2, 2, 1)
CUSTOMERS = 20


@dataclass(slots=True)
class Totals:
    """What came back since the start."""

    pages: int = 0
    failed: int = 0
    first_page: float | None = None
    """When the first page came back whole, in seconds since the epoch."""
    versions: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)

    def line(self) -> str:
        """Return the totals as one JSON object."""
        return json.dumps(
            {
                "pages": self.pages,
                "failed": self.failed,
                "first_page": self.first_page,
                "versions": self.versions,
                "failures": dict(self.failures.most_common(5)),
            }
        )


async def visit(client: Client, path: str, totals: Totals) -> None:
    """Call one page and count it."""
    try:
        response = await client.get("web", path)
        failure = f"{path.split('/')[1]} {response.status} {response.body}"
        good = response.status == 200
    except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
        good, failure = False, f"{path} {type(error).__name__}: {error}"
    totals.pages += 1
    if not good:
        totals.failed += 1
        totals.failures[failure[:200]] += 1
        return
    if totals.first_page is None:
        totals.first_page = time.time()
        report(totals)
    if "x-version" in response.headers:
        totals.versions[response.headers["x-version"]] += 1


def report(totals: Totals) -> None:
    """Print the totals."""
    sys.stdout.write(f"{totals.line()}\n")
    sys.stdout.flush()


async def drive(rate: float, snoop: float) -> None:
    """Visit pages until SIGTERM; then let the open ones end, and report a last time."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    client, totals = Client(), Totals()
    choice = random.Random(1)  # noqa: S311  # the same pages in every run, nothing secret
    open_pages: set[asyncio.Task[None]] = set()
    began = reported = time.monotonic()
    for count in itertools.count(1):
        path = choice.choices(PAGES, WEIGHTS)[0].format(count % CUSTOMERS)
        if choice.random() < snoop:
            path = "/snoop"
        if len(open_pages) < OPEN_MAX:
            page = asyncio.ensure_future(visit(client, path, totals))
            open_pages.add(page)
            page.add_done_callback(open_pages.discard)
        now = time.monotonic()
        if now - reported >= 1:
            report(totals)
            reported = now
        try:
            await asyncio.wait_for(stopped.wait(), max(began + count / rate - now, 0.0001))
            break
        except TimeoutError:
            continue
    if open_pages:
        await asyncio.wait(open_pages, timeout=5)
    report(totals)


if __name__ == "__main__":
    asyncio.run(drive(float(os.environ.get("RATE", "10")), float(os.environ.get("SNOOP", "0"))))
