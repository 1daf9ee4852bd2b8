"""Clocks that jump, stand still, go back or run at another pace are found; those of this machine agree."""

import time

import pytest

from edgeskin.benchmark.clocks import EVERY_S, Watch, machine_clocks


class Hands:
    """Clocks whose hands a test moves."""

    def __init__(self, *names: str) -> None:
        self.at = dict.fromkeys(names, 50.0)

    def watch(self) -> Watch:
        return Watch({name: lambda name=name: self.at[name] for name in self.at})  # type: ignore[misc]

    def move(self, seconds: float, **extra: float) -> None:
        for name in self.at:
            self.at[name] += seconds + extra.get(name, 0.0)


def run(extra: dict[int, float], rounds: int = 60, each: float = 1.0) -> list[str]:
    """Looks at two clocks once a round; the second gets so much more in some rounds."""
    hands = Hands("perf_counter", "monotonic")
    watch = hands.watch()
    for number in range(rounds):
        hands.move(each, monotonic=extra.get(number, 0.0))
        watch.look()
    return watch.reasons()


def test_clocks_that_agree_are_no_reason():
    assert run({}) == []
    assert run(dict.fromkeys(range(60), 0.005)) == []  # half a percent


def test_a_clock_that_jumps_forward_is_found_however_long_the_run():
    assert run({7: 0.3}, rounds=600) == ["clocks disagree: perf_counter counted 1.00 s and monotonic 1.30 s"]


def test_a_jump_that_is_undone_later_is_found():
    found = run({7: 5.0, 9: -5.0})
    assert "clocks disagree: perf_counter counted 1.00 s and monotonic 6.00 s" in found
    assert "the clock monotonic went back by 4 s" in found


def test_a_clock_of_another_pace_is_found_at_the_end():
    assert run(dict.fromkeys(range(60), 0.02)) == [
        "clocks disagree over the run: perf_counter counted 60.00 s and monotonic 61.20 s"
    ]


def test_the_clock_of_the_latencies_itself_going_back_is_found():
    hands = Hands("perf_counter", "monotonic")
    watch = hands.watch()
    hands.move(1.0, perf_counter=-3.0)
    watch.look()
    assert "the clock perf_counter went back by 2 s" in watch.reasons()


def test_looks_are_rare_but_the_last_one_is_taken():
    hands = Hands("perf_counter", "monotonic")
    watch = hands.watch()
    hands.move(EVERY_S / 2, monotonic=1.0)
    watch.look()
    assert watch.reasons() == []
    watch.look(at_once=True)
    assert watch.reasons() != []


def test_this_machine_s_clocks_agree():
    clocks = machine_clocks()
    assert {"perf_counter", "monotonic"} <= clocks.keys()
    watch = Watch()
    for _ in range(3):
        time.sleep(0.02)
        watch.look(at_once=True)
    assert not [reason for reason in watch.reasons() if "went back" in reason]


@pytest.mark.parametrize("name", sorted(machine_clocks()))
def test_each_clock_of_this_machine_is_one_of_its_own(name):
    clocks = machine_clocks()
    first = clocks[name]()
    time.sleep(0.01)
    assert 0.005 < clocks[name]() - first < 30
