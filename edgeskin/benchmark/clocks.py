"""Whether the clocks of a run agree: a latency is worth no more than the clock that took it."""

import time
from collections.abc import Callable, Mapping

Clock = Callable[[], float]  # seconds since some moment

DISAGREE = 0.01  # of the time passed, between any two clocks
JUMP_S = 0.05  # between two looks; less may be this process waiting for a core in the middle of a look
EVERY_S = 0.2  # from one look to the next: a look takes some ten microseconds
_TRIES = 10


def machine_clocks() -> dict[str, Clock]:
    """The clocks of this machine that ought to run alike; "perf_counter" is the one that latencies are taken with.

    On Linux `monotonic` and `perf_counter` are one clock. Its raw sister is not slewed towards a time server, and
    the boot clock goes on while the machine is suspended, so these two can contradict it.

    >>> sorted(machine_clocks())[-2:]
    ['monotonic', 'perf_counter']
    """
    found: dict[str, Clock] = {"perf_counter": time.perf_counter, "monotonic": time.monotonic}
    for name, attribute in (("boot time", "CLOCK_BOOTTIME"), ("hardware clock", "CLOCK_MONOTONIC_RAW")):
        number = getattr(time, attribute, None)
        if number is not None:
            found[name] = lambda number=number: time.clock_gettime(number)  # type: ignore[misc]
    return found


class Watch:
    """Looks at all clocks now and then through a run, never within a timed query.

    >>> hands = {"perf_counter": 0.0, "monotonic": 0.0}
    >>> watch = Watch({name: lambda name=name: hands[name] for name in hands})
    >>> hands.update(perf_counter=9.0, monotonic=10.0)
    >>> watch.look()
    True
    >>> watch.reasons()
    ['clocks disagree: perf_counter counted 9.00 s and monotonic 10.00 s']
    """

    def __init__(self, clocks: Mapping[str, Clock] | None = None) -> None:
        self._clocks = dict(machine_clocks() if clocks is None else clocks)
        self._leader = next(iter(self._clocks))
        self._faults: list[str] = []
        self._lead = self._clocks[self._leader]
        self._first = self._last = self._read()

    def _read(self) -> dict[str, float]:
        """All clocks at one moment: read again if this process was interrupted between the first and the last."""
        found: dict[str, float] = {}
        for _ in range(_TRIES):
            found = {name: clock() for name, clock in self._clocks.items()}
            if abs(self._lead() - found[self._leader]) < JUMP_S / 10:
                break
        return found

    def look(self, *, at_once: bool = False) -> bool:
        """Compare each clock with itself and with the others, if the last look was EVERY_S ago; or `at_once`.

        Returns:
            Whether it looked: what else is to be done now and then between queries can wait for it too.
        """
        if not at_once and 0 <= self._lead() - self._last[self._leader] < EVERY_S:
            return False
        now = self._read()
        spent = {name: now[name] - self._last[name] for name in now}
        for name, seconds in spent.items():
            if seconds < 0:
                self._note(f"the clock {name} went back by {-seconds:.3g} s")
            gap = abs(seconds - spent[self._leader])
            if seconds >= 0 and gap > max(JUMP_S, DISAGREE * spent[self._leader]):
                self._note(f"clocks disagree: {self._told(spent, name)}")
        self._last = now
        return True

    def _told(self, spent: Mapping[str, float], name: str) -> str:
        return f"{self._leader} counted {spent[self._leader]:.2f} s and {name} {spent[name]:.2f} s"

    def _note(self, fault: str) -> None:
        if fault not in self._faults and len(self._faults) < 5:
            self._faults.append(fault)

    def reasons(self) -> list[str]:
        """Why the times of this run are not to be trusted; empty when the clocks agree within DISAGREE."""
        found = list(self._faults)
        spent = {name: self._last[name] - self._first[name] for name in self._last}
        for name, seconds in spent.items():
            gap = abs(seconds - spent[self._leader])
            if not found and gap > DISAGREE * abs(spent[self._leader]) and gap > JUMP_S / 10:
                found.append(f"clocks disagree over the run: {self._told(spent, name)}")
        return found
