import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from support.live.pipelines import Camera, Clip, KeepingSink, balanced, images, run, settled, slowed

from hybrid_edge.runtime import Classifier, Frame
from hybrid_edge.runtime.errors import UsageError
from hybrid_edge.runtime.outputs.sink import Result
from hybrid_edge.runtime.pipeline.dataflow import Pipeline, PipelineOptions
from hybrid_edge.runtime.pipeline.handover import Batch
from hybrid_edge.runtime.pipeline.mailbox import Intake, Mailbox, PendingFrame
from hybrid_edge.runtime.pipeline.models import Models
from hybrid_edge.runtime.sources.events import Events
from hybrid_edge.runtime.sources.regions import Region, parse_regions

pytestmark = pytest.mark.usefixtures("every_thread_ends")

THREE = parse_regions(["gate=0,0,9,9", "dial=5,5,9,9", "space=50%,50%,50%,50%"])
NAMES = ["gate", "dial", "space"]


@dataclass
class Resized(Camera):
    """A camera whose pictures have each of these sizes, (height, width), for ten frames, and the last one on."""

    sizes: Sequence[tuple[int, int]] = ()

    def _frame(self, index: int) -> Frame:
        self.size = self.sizes[min(index // 10, len(self.sizes) - 1)]
        return super()._frame(index)


class Enough(KeepingSink):
    """A sink that asks for the end once it has so many results: a busy machine needs longer for them."""

    def __init__(self, count: int, **settings: bool) -> None:
        super().__init__(on_poll=lambda: len(self.results) >= count, **settings)


def regions(**of: tuple[Region, ...]) -> dict[str, tuple[Region, ...]]:
    return of


def captured(results: Sequence[Result]) -> list[list[Result]]:
    """Consecutive results of one picture, together."""
    rows: list[list[Result]] = []
    for result in results:
        if rows and rows[-1][-1].frame.whole is result.frame.whole is not None:
            rows[-1].append(result)
        else:
            rows.append([result])
    return rows


@pytest.mark.parametrize(("latest", "max_wait"), [(None, 0.0), (None, 5.0), (False, 0.0)])
def test_the_regions_of_a_picture_go_through_the_model_in_one_batch(
    classifier: Classifier, latest: bool | None, max_wait: float
) -> None:
    engine, sink = slowed(classifier, 0.01), Enough(30)
    options = {"batch": 3, "latest": latest, "max_wait_ms": max_wait}
    summary = run(classifier, [Camera(500)], sink, regions=regions(camera=THREE), **options)
    rows = captured(sink.results)
    assert len(rows) > 5
    assert {tuple(result.frame.region for result in row) for row in rows} == {tuple(NAMES)}
    assert {len({result.frame.index for result in row}) for row in rows} == {1}
    assert {result.batch for result in sink.results} == set(engine.batches) == {3}
    assert settled(summary)
    assert len({(item.captured, item.classified, item.dropped) for item in summary.status.sources}) == 1
    assert [item.name for item in summary.status.sources] == [f"camera [{name}]" for name in NAMES]
    assert {(item.source, item.region) for item in summary.status.sources} == {("camera", name) for name in NAMES}


def test_each_region_is_answered_as_its_pixels_are_alone(classifier: Classifier) -> None:
    sink = KeepingSink()
    run(classifier, [Clip(images(4))], sink, batch=6, regions=regions(clip=THREE))
    alone = classifier.predict([np.ascontiguousarray(result.frame.image) for result in sink.results])
    for result, expected in zip(sink.results, alone, strict=True):
        assert result.prediction is not None
        assert np.allclose(result.prediction.probabilities, expected.probabilities, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_batch_below_the_number_of_regions_divides_a_picture_and_mixes_no_two(
    classifier: Classifier, batch: int
) -> None:
    slowed(classifier, 0.005)
    sink = Enough(30)
    summary = run(classifier, [Camera(500)], sink, batch=batch, regions=regions(camera=THREE))
    rows = captured(sink.results)
    assert {tuple(result.frame.region for result in row) for row in rows[:-1]} == {tuple(NAMES)}
    assert summary.dropped > 0
    assert settled(summary)


def test_sources_with_other_sets_of_regions_share_batches_and_no_picture_is_divided(classifier: Classifier) -> None:
    engine, sink = slowed(classifier, 0.01), Enough(60)
    cameras = [Camera(200, "first"), Camera(200, "second"), Camera(200, "whole")]
    sets = regions(first=THREE[:2], second=THREE)
    summary = run(classifier, cameras, sink, batch=4, max_wait_ms=20, regions=sets)
    for row in captured(sink.results):
        own = [result.frame.region for result in row]
        assert own == {"first": NAMES[:2], "second": NAMES, "whole": [""]}[row[0].frame.source]
        assert len({result.batch for result in row}) == 1
    assert max(engine.batches) > 2
    assert all(item.classified for item in summary.status.sources)
    assert [item.name for item in summary.status.sources][-1] == "whole"


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_of_files_every_region_of_every_picture_is_classified_in_order(classifier: Classifier, batch: int) -> None:
    engine, sink = slowed(classifier), KeepingSink()
    summary = run(classifier, [Clip([*images(20), "damaged", *images(5)])], sink, batch=batch, regions={"clip": THREE})
    assert summary.ending == "finished"
    shown = [(result.frame.index, result.frame.region, result.prediction is not None) for result in sink.results]
    assert shown == [(index, name, index != 20) for index in range(26) for name in NAMES]
    assert [(item.classified, item.unreadable) for item in summary.status.sources] == [(25, 1)] * 3
    assert batch != 8 or set(engine.batches) <= {6, 3}


def test_a_region_that_does_not_fit_one_file_is_unreadable_there_and_nowhere_else(classifier: Classifier) -> None:
    sink = KeepingSink()
    far = (*THREE[:1], *parse_regions(["far=25,0,4,4"]))
    summary = run(classifier, [Clip(images(7))], sink, batch=8, regions=regions(clip=far))
    unread = [(result.frame.index, result.frame.region) for result in sink.results if result.prediction is None]
    assert unread == [(index, "far") for index, image in enumerate(images(7)) if image.shape[1] < 29]
    assert [item.unreadable for item in summary.status.sources] == [0, len(unread)]
    assert len(unread) in range(1, 7)


def test_a_region_outside_a_cameras_first_picture_ends_the_run_with_the_pictures_size(classifier: Classifier) -> None:
    far = parse_regions(["far=60,0,9,9"])
    with pytest.raises(UsageError, match=r"camera: the region far=60,0,9,9 .* 64x48"):
        run(classifier, [Camera(60)], KeepingSink(), regions=regions(camera=far))


def test_a_region_is_left_out_while_a_camera_gives_pictures_without_it_and_comes_back(classifier: Classifier) -> None:
    events, sink = Events(), Enough(80)
    camera = Resized(100, sizes=[(48, 64), (30, 40), (48, 64)])
    sets = regions(camera=(*THREE[:1], *parse_regions(["far=50,0,9,9"])))
    summary = run(classifier, [camera], sink, events=events, batch=2, latest=False, regions=sets)
    of = {name: [r.frame.index for r in sink.results if r.frame.region == name] for name in ("gate", "far")}
    assert of["gate"][:25] == list(range(25))
    assert of["far"][:15] == [*range(10), *range(20, 25)]
    assert events.counts() == {"region-outside": 1}
    assert balanced(summary.status)
    assert not summary.unreadable


def test_a_picture_lives_no_longer_than_its_regions(classifier: Classifier) -> None:
    slowed(classifier, 0.005)
    camera = Camera(200)
    run(classifier, [camera], Enough(30, keep_images=False), batch=3, regions=regions(camera=THREE))
    assert camera.alive.most <= 6
    assert camera.alive.now <= 1


def parts_of(index: int, boxes: Sequence[Mailbox]) -> list[tuple[Mailbox, Frame]]:
    """A picture's part for each mailbox."""
    whole = np.zeros((2, 2, 3), np.uint8)
    return [(box, Frame("camera", index, whole[:1], region=box.region, whole=whole)) for box in boxes]


def boxes_of(*, newest: bool) -> list[Mailbox]:
    return [Mailbox("camera", live=True, newest=newest, region=name) for name in NAMES]


def test_a_slow_engine_gets_the_newest_picture_of_all_regions_whatever_came_while_one_was_taken() -> None:
    boxes = boxes_of(newest=True)
    intake = Intake([boxes], fresh=False)
    intake.put(*parts_of(0, boxes))
    intake.put(*parts_of(1, boxes))
    taken = [intake.take(0)]
    intake.put(*parts_of(2, boxes))  # while the first region of picture 1 is preprocessed
    taken += [intake.take(time.monotonic(), room) for room in (2, 1)]
    assert intake.take(time.monotonic(), 2) is None  # picture 2 has three
    taken += [intake.take(0) for _ in NAMES]
    assert [entry and (entry.frame.index, entry.box.region) for entry in taken] == [
        (index, name) for index in (1, 2) for name in NAMES
    ]
    assert [(item.captured, item.dropped, item.waiting) for item in intake.status(lambda _: 0)] == [(3, 1, 2)] * 3


def test_a_fresh_intake_waits_for_all_regions_of_the_picture_that_is_on_its_way() -> None:
    boxes = boxes_of(newest=True)
    intake = Intake([boxes], fresh=True)
    intake.put(*parts_of(0, boxes))
    taken = [intake.take(0) for _ in NAMES]
    intake.put(*parts_of(1, boxes))
    for entry in taken:
        assert intake.take(time.monotonic()) is None
        assert entry is not None
        intake.settle([entry])
    following = intake.take(time.monotonic())
    assert following is not None
    assert following.frame.index == 1


@pytest.mark.parametrize(("batch", "fresh"), [(1, True), (3, True), (4, False)])
def test_a_batch_of_one_picture_takes_no_picture_before_the_one_on_its_way_is_done(
    classifier: Classifier, batch: int, fresh: bool
) -> None:
    options = PipelineOptions(batch, regions=regions(camera=THREE))
    assert Pipeline(classifier, [Camera()], [], options, Events())._links.intake._fresh == fresh


def test_where_every_picture_counts_one_without_a_region_mixes_up_none() -> None:
    boxes = boxes_of(newest=False)
    intake = Intake([boxes], fresh=False)
    for index, present in enumerate((boxes, boxes[1:2], boxes[1:], boxes)):
        intake.put(*parts_of(index, present))
    taken = [intake.take(0) for _ in range(9)]
    assert [entry and (entry.frame.index, entry.box.region) for entry in taken] == [
        *((0, name) for name in NAMES),
        (1, "dial"),
        *((2, name) for name in NAMES[1:]),
        *((3, name) for name in NAMES),
    ]


def test_regions_taken_and_not_yet_returned_are_counted_as_dropped_at_the_end() -> None:
    boxes = boxes_of(newest=True)
    intake = Intake([boxes], fresh=True)
    intake.put(*parts_of(0, boxes))
    first = intake.take(0)
    assert first is not None
    assert not intake.over
    intake.close()
    first.row = 0
    intake.settle([first])
    counts = [(item.classified, item.dropped, item.waiting) for item in intake.status(lambda _: 0)]
    assert counts == [(1, 0, 0), (0, 1, 0), (0, 1, 0)]
    assert intake.over


def test_a_picture_counts_once_in_a_batchs_memory_however_many_regions_it_has(classifier: Classifier) -> None:
    (slot,) = Models(classifier, 8, 1).slots()
    batch, boxes = Batch(slot), boxes_of(newest=True)
    for index in range(2):
        for box, part in parts_of(index, boxes):
            batch.add(PendingFrame(box, part))
    assert (batch.rows, batch.size) == (6, 2 * 12)
