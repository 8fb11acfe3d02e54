from __future__ import annotations

import os
import time

from hostproxy.net.reactor import READ, WRITE
from tests.support import Loop


class Watched:
    def __init__(self, fd: int, ready: object = None) -> None:
        self.fd = fd
        self.seen: list[int] = []
        self.faults: list[BaseException] = []
        self._ready = ready

    def ready(self, events: int) -> None:
        self.seen.append(events)
        if self._ready is not None:
            self._ready()  # type: ignore[operator]

    def fault(self, error: BaseException) -> None:
        self.faults.append(error)


def test_its_clock_is_monotonic(loop: Loop) -> None:
    assert loop.reactor.seconds is time.monotonic
    loop.step()
    assert abs(loop.reactor.now - time.monotonic()) < 1.0


def test_timers_run(loop: Loop) -> None:
    ran: list[bool] = []
    loop.reactor.callLater(0.01, ran.append, True)
    loop.until(lambda: ran)


def test_watch_rewatch_and_unwatch(loop: Loop) -> None:
    read, write = os.pipe()
    watched = Watched(read)
    loop.reactor.watch(watched, READ)
    loop.settle()
    assert watched.seen == []
    os.write(write, b"x")
    loop.step()
    assert watched.seen == [READ]
    loop.reactor.rewatch(watched, 0)
    loop.settle()
    assert watched.seen == [READ]
    loop.reactor.unwatch(watched)
    loop.reactor.unwatch(watched)
    loop.settle()
    assert watched.seen == [READ]
    os.close(read)
    os.close(write)


def test_a_fault_reaches_its_own_and_leaves_the_rest_of_the_batch_alone(loop: Loop) -> None:
    def fault() -> None:
        raise RuntimeError("a fault of ours")

    pipes = [os.pipe() for _ in range(5)]
    watched = [Watched(write, fault if number in (1, 3) else None) for number, (_, write) in enumerate(pipes)]
    for one in watched:
        loop.reactor.watch(one, WRITE)
    loop.step()
    assert [len(one.seen) for one in watched] == [1] * 5
    assert [len(one.faults) for one in watched] == [0, 1, 0, 1, 0]
    for one in watched:
        loop.reactor.unwatch(one)
    for pipe in pipes:
        os.close(pipe[0])
        os.close(pipe[1])


def test_a_fault_in_the_handling_of_a_fault_is_survived(loop: Loop) -> None:
    read, write = os.pipe()

    class Hopeless(Watched):
        def ready(self, events: int) -> None:
            loop.reactor.unwatch(self)
            raise RuntimeError("a fault of ours")

        def fault(self, error: BaseException) -> None:
            raise RuntimeError("another")

    loop.reactor.watch(Hopeless(write), WRITE)
    loop.settle()
    os.close(read)
    os.close(write)


def test_an_event_of_a_closed_descriptor_is_not_taken_for_one_of_its_successor(loop: Loop) -> None:
    """Two have events in one batch; the first closes the second and opens another that gets its number."""
    pipes = [os.pipe(), os.pipe()]
    successors: list[Watched] = []
    watched: list[Watched] = []

    def replace(own: int) -> None:
        if successors:
            return
        other = watched[1 - own]
        loop.reactor.unwatch(other)
        os.close(other.fd)
        read, write = os.pipe()
        pipes.append((read, write))
        assert other.fd in (read, write)
        successor = Watched(other.fd)
        successors.append(successor)
        loop.reactor.watch(successor, READ)

    for number, (read, write) in enumerate(pipes[:]):
        os.write(write, b"x")
        watched.append(Watched(read, lambda number=number: replace(number)))
    for one in watched:
        loop.reactor.watch(one, READ)
    loop.step()
    assert len(watched[0].seen) + len(watched[1].seen) == 1
    assert successors[0].seen == []
    survivor = watched[0] if watched[0].seen else watched[1]
    loop.reactor.unwatch(survivor)
    loop.reactor.unwatch(successors[0])
    closed = {watched[0].fd, watched[1].fd} - {survivor.fd}
    for descriptor in {fd for pipe in pipes for fd in pipe} | closed:
        os.close(descriptor)


def test_twisted_s_own_interfaces_work_beside_it(loop: Loop) -> None:
    read, write = os.pipe()
    seen: list[bytes] = []

    class Reader:
        def fileno(self) -> int:
            return read

        def doRead(self) -> None:
            seen.append(os.read(read, 10))

        def connectionLost(self, reason: object) -> None:
            pass

        def logPrefix(self) -> str:
            return "reader"

    reader = Reader()
    loop.reactor.addReader(reader)
    os.write(write, b"hello")
    loop.settle()
    assert seen == [b"hello"]
    loop.reactor.removeReader(reader)
    os.close(read)
    os.close(write)
