"""One storm: a server, workers and clients of its own, and faults that a seed chooses while the load is fitted."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from tests.faults.clients import Clients, Order
from tests.faults.fleet import Fleet, Place
from tests.faults.load import Work
from tests.faults.server import Server

Fault: TypeAlias = "Callable[[Storm], None]"

#: Between an order and the fault that comes amid it.
LONGEST_PAUSE_SECONDS = 1.0
#: Clocks of workers are wrong by so much, or right.
CLOCKS_SECONDS = (0.0, 0.0, 60.0, -60.0, 86_400.0)


class Storm:
    """What faults work on. `forgotten` says whether the server has lost the end of its file."""

    def __init__(self, binary: str, folder: Path, works: Sequence[Work], seed: int) -> None:
        self.random, self.works, self.folder = random.Random(seed), works, folder
        self.forgotten = False
        self.server = Server(binary, folder)
        places = [Place(1), Place(self.random.choice([1, 2]), self.random.choice(CLOCKS_SECONDS))]
        self.fleet = Fleet(self.server.settings, folder, places)
        self.clients = Clients(self.server, folder)

    def rage(self, faults: Sequence[Fault], count: int) -> list[str]:
        """So many orders, with a fault amid each; returns the names of the faults."""
        names = []
        for fault in (self.random.choice(faults) for _ in range(count)):
            self.order_something()
            time.sleep(self.random.uniform(0.0, LONGEST_PAUSE_SECONDS))
            names.append(fault.__name__)
            self.note(fault.__name__)
            fault(self)
            self.fleet.revive()
        self.note("over")
        return names

    def note(self, what: str) -> None:
        """Write down what happens when, for who looks at the logs later."""
        with (self.folder / "faults.log").open("a") as log:
            print(time.strftime("%H:%M:%S"), what, file=log)

    def order_something(self) -> Order:
        """Submit one of the works, in one of the ways; a submission may still be on its way when this returns."""
        order = self.clients.order(self.random.choice(self.works), in_files=self.random.random() < 0.3)
        self.clients.submit_later(order, by_command=self.random.random() < 0.3)
        return order

    def order_now(self, **settings: int) -> Order:
        """Submit one of the works and return when that is done."""
        order = self.clients.order(self.random.choice(self.works), in_files=self.random.random() < 0.3, **settings)
        self.clients.submit(order)
        return order

    def some_place(self) -> int:
        """One of the places of the fleet."""
        return self.random.randrange(len(self.fleet.places))

    def pass_time(self, least: float, most: float) -> None:
        """Let some seconds go by."""
        time.sleep(self.random.uniform(least, most))

    def end(self) -> None:
        """Leave no process behind."""
        self.clients.end()
        self.fleet.kill()
        self.server.kill()
