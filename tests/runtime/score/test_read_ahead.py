import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from hybrid_edge.runtime.score.read_ahead import read_ahead

WORKERS, AHEAD = 3, 5


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(WORKERS) as opened:
        yield opened


def test_results_come_in_order_whatever_finishes_first(pool: ThreadPoolExecutor) -> None:
    first = threading.Event()

    def work(item: int, loaded: int) -> int:
        if item == 0:
            first.wait(10)
        elif item == 2:
            first.set()
        return item + loaded

    found = read_ahead(range(20), lambda item: 100 * item, work, pool, workers=WORKERS, ahead=AHEAD)
    assert list(found) == [101 * item for item in range(20)]


def test_no_more_is_loaded_than_may_wait(pool: ThreadPoolExecutor) -> None:
    loaded = list[int]()
    found = read_ahead(range(1000), loaded.append, lambda item, _: item, pool, workers=WORKERS, ahead=AHEAD)
    for number in range(50):
        assert next(found) == number
        assert len(loaded) <= number + 1 + AHEAD + 1
    found.close()


def test_what_is_not_worked_on_yet_is_bounded_too(pool: ThreadPoolExecutor) -> None:
    """Bytes of tars wait there, which may be large."""
    loaded, go_on = list[int](), threading.Event()
    begun = threading.Barrier(WORKERS + 1)
    most = list[int]()

    def work(item: int, _: object) -> int:
        if item < WORKERS:
            begun.wait(10)
            go_on.wait(10)
        return item

    def watch() -> None:
        begun.wait(10)  # all workers are at work, and none has finished
        most.append(len(loaded))
        go_on.set()

    watching = threading.Thread(target=watch)
    watching.start()
    found = list(read_ahead(range(100), loaded.append, work, pool, workers=WORKERS, ahead=50))
    watching.join()
    assert len(found) == 100
    assert most[0] <= WORKERS + 1


@pytest.mark.parametrize("place", ["items", "load", "work"])
def test_an_error_comes_in_its_place(pool: ThreadPoolExecutor, place: str) -> None:
    def fail(here: str, item: int) -> int:
        if here == place and item == 3:
            raise OSError(place)
        return item

    items = (fail("items", item) for item in range(10))
    found = read_ahead(
        items, lambda item: fail("load", item), lambda item, _: fail("work", item), pool, workers=WORKERS, ahead=AHEAD
    )
    seen = list[int]()
    with pytest.raises(OSError, match=place):
        seen.extend(found)
    assert not seen or seen == [0, 1, 2]


def test_one_who_takes_no_more_leaves_no_thread_behind(pool: ThreadPoolExecutor) -> None:
    found = read_ahead(range(1000), lambda _: None, lambda item, _: item, pool, workers=WORKERS, ahead=AHEAD)
    next(found)
    (feeding,) = (thread for thread in threading.enumerate() if thread.name == "reading ahead")
    found.close()
    feeding.join(10)
    assert not feeding.is_alive()
