import io
import json
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from rich.console import Console
from support.live.results import LABELS, make_result, make_status

from hybrid_edge.runtime.errors import UsageError
from hybrid_edge.runtime.infer_request import InferRequest
from hybrid_edge.runtime.outputs.answering import Answering
from hybrid_edge.runtime.outputs.result_lines import JsonLines, ResultTable
from hybrid_edge.runtime.outputs.sink import UNKNOWN, Answer, Result
from hybrid_edge.runtime.outputs.snapshots import Snapshots, parse_condition
from hybrid_edge.runtime.outputs.statusline import StatusLine
from hybrid_edge.runtime.sources.events import Event, Kind

CAT = (1.0, 0, 0, 0, 0)
DOG = (0, 1.0, 0, 0, 0)
UNSURE = (0.3, 0.5, 0.2, 0, 0)
CLOCK = 1_800_000_000.25  # Unix seconds of the results' second 0


def answered(answering: Answering, items: Iterable[Result | Event]) -> list[Result]:
    results = []
    for item in items:
        if isinstance(item, Event):
            answering.event(item)
        else:
            results.append(answering.answered(item))
    return results


def smoothed(seconds: float, items: Iterable[Result | Event], *live: str) -> list[Result]:
    return answered(Answering(smooth=seconds, live=live), items)


def cats(results: Iterable[Result]) -> list[float]:
    return [float(result.prediction.probabilities[0]) for result in results if result.prediction is not None]


def answers(answering: Answering, *moments: tuple[float, tuple[float, ...]] | Event) -> list[Answer]:
    """The answers to frames of cam0 that were captured at those seconds, with those probabilities."""
    items = [
        moment if isinstance(moment, Event) else make_result(captured=moment[0], probabilities=moment[1])
        for moment in moments
    ]
    return [result.answer for result in answered(answering, items) if result.answer is not None]


def test_an_average_follows_the_time_between_captured_frames() -> None:
    moments = [(10.0, CAT), (11.0, DOG), (15.0, DOG)]
    results = [make_result(captured=moment, probabilities=probabilities) for moment, probabilities in moments]
    averaged = smoothed(2.0, results, "cam0")
    assert cats(averaged) == pytest.approx([1, math.exp(-0.5), math.exp(-0.5) * math.exp(-2)], abs=1e-6)
    for result in averaged:
        assert result.smoothed_s == 2.0
        assert result.prediction.probabilities.dtype == np.float32
        assert result.prediction.probabilities.sum() == pytest.approx(1, abs=1e-6)
    second, own = averaged[1].prediction, results[1].prediction
    assert second.label == "cat"  # though this frame alone is a dog
    assert averaged[1].answer.label == "cat"
    assert second.logits.argmax() == 1
    assert own.probabilities[1] == 1  # the result itself is left alone


def test_a_video_gives_the_same_however_fast_it_is_read() -> None:
    found = []
    for speed in (0.001, 10.0):
        moments = [1 + index * speed for index in range(5)]
        results = [
            make_result("clip.mp4", i, captured=t, probabilities=DOG if i else CAT) for i, t in enumerate(moments)
        ]
        found.append(cats(smoothed(1.0, results)))
    assert found[0] == found[1]
    assert found[0][1] == pytest.approx(math.exp(-1 / 25), abs=1e-6)


def test_sources_are_averaged_apart_and_images_and_unreadable_frames_pass_as_they_are() -> None:
    image, broken = make_result("cam0", video=False, probabilities=DOG), make_result("cam0", error="torn")
    first = make_result("cam0", captured=1, probabilities=CAT)
    other, again = (make_result(name, captured=2, probabilities=DOG) for name in ("cam1", "cam0"))
    averaged = smoothed(5.0, [first, other, image, broken, again], "cam0", "cam1")
    assert cats(averaged) == pytest.approx([1, 0, 0, math.exp(-1 / 5)])
    assert averaged[2].prediction is image.prediction
    assert averaged[3] is broken


@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_break_starts_the_average_and_the_answer_anew(kind: Kind) -> None:
    first, second = make_result(captured=1, probabilities=CAT), make_result(captured=2, probabilities=DOG)
    broken = kind in {"lost", "stalled", "reconnected", "resized"}
    averaged = smoothed(5.0, [first, Event(kind, "cam0", "", 1.0), second], "cam0")
    assert (cats(averaged)[1] == 0) is broken
    stable = Answering(stable=1.0, live=["cam0"])
    found = answers(stable, (1, CAT), (2, CAT), Event(kind, "cam0", "", 1.0), (3, CAT))
    assert [answer.label for answer in found] == [UNKNOWN, "cat", UNKNOWN if broken else "cat"]


def test_a_break_of_one_source_leaves_the_others_alone() -> None:
    stable = Answering(stable=1.0, live=["cam0", "cam1"])
    found = answers(stable, (1, CAT), (2, CAT), Event("lost", "cam1", "", 1.0), (3, CAT))
    assert found[-1].label == "cat"


def test_a_stream_whose_time_goes_back_is_another_one() -> None:
    results = [make_result("clip.mp4", 9, probabilities=CAT), make_result("clip.mp4", 0, probabilities=DOG)]
    assert cats(smoothed(5.0, results)) == [1, 0]


def test_by_default_the_answer_is_the_most_probable_label_since_it_became_that() -> None:
    found = answers(Answering(live=["cam0"]), (1, CAT), (2, UNSURE), (3, UNSURE), (4, CAT))
    assert found == [
        Answer("cat", 1.0, CLOCK + 1),
        Answer("dog", 0.5, CLOCK + 2),
        Answer("dog", 0.5, CLOCK + 2),
        Answer("cat", 1.0, CLOCK + 4),
    ]


def test_below_the_least_probability_the_answer_is_unknown_and_the_probabilities_stay() -> None:
    sure = Answering(min_probability=0.6, live=["cam0"])
    result = sure.answered(make_result(captured=1, probabilities=UNSURE))
    assert result.answer == Answer(UNKNOWN, 0.5, CLOCK + 1, known=False)
    assert result.prediction.label == "dog"
    assert sure.answered(make_result(captured=2, probabilities=CAT)).answer.known
    image = sure.answered(make_result(video=False, probabilities=UNSURE))
    assert not image.answer.known
    exactly = Answering(min_probability=0.5).answered(make_result(probabilities=UNSURE))
    assert exactly.answer.label == "dog"


def test_a_stable_answer_changes_when_one_other_label_has_lasted() -> None:
    stable = Answering(stable=2.0, live=["cam0"])
    flicker = [CAT, CAT, CAT, DOG, CAT, DOG, DOG, DOG, CAT]
    found = answers(stable, *enumerate(flicker, 1))
    assert [answer.label for answer in found] == [UNKNOWN] * 2 + ["cat"] * 5 + ["dog"] * 2
    assert [answer.since - CLOCK for answer in found] == [1, 1, 3, 3, 3, 3, 3, 8, 8]
    assert found[3].probability == 0  # the label's own in that frame, in which it is not the first


def test_two_labels_in_turn_never_replace_a_stable_answer() -> None:
    stable = Answering(stable=2.0, live=["cam0"])
    bird = (0, 0, 1.0, 0, 0)
    found = answers(stable, (0, CAT), (2, CAT), *((3 + t, DOG if t % 2 else bird) for t in range(20)))
    assert {answer.label for answer in found[1:]} == {"cat"}


def test_doubt_that_lasts_replaces_a_stable_answer() -> None:
    stable = Answering(stable=1.0, min_probability=0.6, live=["cam0"])
    found = answers(stable, (0, CAT), (1, CAT), (2, UNSURE), (3, UNSURE), (4, CAT), (5, CAT))
    assert [answer.label for answer in found] == [UNKNOWN, "cat", "cat", UNKNOWN, UNKNOWN, "cat"]


def test_a_second_of_a_video_file_is_25_frames_and_an_image_needs_no_time() -> None:
    stable = Answering(stable=1.0)
    found = [stable.answered(make_result("clip.mp4", i, captured=1, probabilities=CAT)).answer for i in range(27)]
    assert [answer.label for answer in found] == [UNKNOWN] * 25 + ["cat"] * 2
    assert stable.answered(make_result("cat.jpg", video=False, probabilities=CAT)).answer.label == "cat"


def test_the_answer_follows_the_average() -> None:
    both = Answering(smooth=2.0, min_probability=0.9, live=["cam0"])
    found = answers(both, (0, CAT), (1, DOG), (20, DOG))
    assert [answer.label for answer in found] == ["cat", UNKNOWN, "dog"]


def test_many_sources_are_not_remembered_for_ever() -> None:
    stable = Answering(stable=1.0)
    for number in range(1000):
        stable.answered(make_result(f"{number}.mp4", size=(1, 1)))
    assert len(stable._memories) == 256


def test_the_regions_of_a_source_have_answers_of_their_own_and_break_together() -> None:
    stable = Answering(stable=1.0, live=["cam0 [gate]", "cam0 [dial]"])

    def shown(moment: float, region: str, probabilities: tuple[float, ...]) -> str:
        result = make_result(captured=moment, probabilities=probabilities)
        return stable.answered(replace(result, frame=replace(result.frame, region=region))).answer.label

    assert [shown(moment, *what) for moment in (1, 2) for what in (("gate", CAT), ("dial", DOG))][2:] == ["cat", "dog"]
    stable.event(Event("lost", "cam0", "", 1.0))
    assert {shown(3, "gate", CAT), shown(3, "dial", DOG)} == {UNKNOWN}


def test_json_lines_tell_the_answer_where_it_is_judged() -> None:
    stream = io.StringIO()
    lines = JsonLines(2, stream, answers=True)
    judging = Answering(min_probability=0.6, live=["cam0"])
    for probabilities in (CAT, UNSURE):
        lines.write(judging.answered(make_result(captured=7, probabilities=probabilities)))
    sure, unsure = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (sure["answer"], sure["since"]) == ("cat", CLOCK + 7)
    assert unsure["answer"] is None
    assert unsure["labels"] == ["dog", "cat"]
    assert unsure["probabilities"] == [0.5, pytest.approx(0.3)]


def test_a_label_that_is_called_unknown_is_not_the_lack_of_one() -> None:
    labels = (UNKNOWN, *LABELS[1:])
    stream = io.StringIO()
    for answering in (Answering(), Answering(min_probability=0.9)):
        result = make_result(probabilities=(0.75, 0.2, 0.05, 0, 0))
        named = replace(result, prediction=replace(result.prediction, labels=labels))
        JsonLines(1, stream, answers=True).write(answering.answered(named))
    assert [json.loads(line)["answer"] for line in stream.getvalue().splitlines()] == [UNKNOWN, None]


def test_below_the_answer_stand_the_other_labels() -> None:
    plain = make_result(probabilities=UNSURE)
    assert plain.ranked(2) == [("dog", 0.5), ("cat", pytest.approx(0.3))]
    unsure = Answering(min_probability=0.6).answered(plain)
    assert unsure.ranked(3) == [(UNKNOWN, None), ("dog", 0.5), ("cat", pytest.approx(0.3))]
    held = replace(plain, answer=replace(plain.answer, label="cat", probability=0.3))
    assert [label for label, _ in held.ranked(2)] == ["cat", "dog"]
    assert make_result(error="torn").ranked(3) == []


def test_rows_and_the_status_show_the_answer() -> None:
    unsure = Answering(min_probability=0.6, live=["cam0"]).answered(make_result(probabilities=UNSURE))
    screen = Console(file=io.StringIO(), width=120)
    ResultTable(3, (*LABELS, UNKNOWN), screen).write(unsure)
    row = screen.file.getvalue().splitlines()[-1]
    assert row.split()[2] == UNKNOWN
    assert "dog 50.0 %, cat 30.0 %" in row
    status = Console(file=io.StringIO(), width=120, force_terminal=True)
    lines = StatusLine(status, live=["cam0"])
    lines.write(unsure)
    lines.status(make_status())
    lines.poll()
    lines.close()
    assert UNKNOWN in status.file.getvalue()
    assert "dog" not in status.file.getvalue()


def test_a_condition_of_snapshots_is_on_the_models_probabilities(tmp_path: Path) -> None:
    unsure = Answering(min_probability=0.9).answered(make_result())
    Snapshots(tmp_path, parse_condition("cat>0.7", LABELS)).write(unsure)
    assert len(list(tmp_path.iterdir())) == 1


def test_json_lines_say_that_they_are_smoothed() -> None:
    stream = io.StringIO()
    JsonLines(1, stream).write(Answering(smooth=1.5, live=["cam0"]).answered(make_result()))
    JsonLines(1, stream).write(make_result())
    averaged, plain = (json.loads(line) for line in stream.getvalue().splitlines())
    assert averaged.pop("smoothed_s") == 1.5
    assert averaged.keys() == plain.keys()


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf])
def test_a_time_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(UsageError, match="more than 0 seconds"):
        InferRequest(("0",), smooth=seconds)
