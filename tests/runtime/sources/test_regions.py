import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
from support.models.bundles import sample_image

from hybrid_edge.runtime import Frame
from hybrid_edge.runtime.errors import ImageError, UsageError
from hybrid_edge.runtime.sources.events import Event, Events
from hybrid_edge.runtime.sources.regions import RegionCutter, parse_regions, regions_of


@dataclass
class Named:
    name: str
    live: bool = True


def frame(height: int, width: int, index: int = 0) -> Frame:
    return Frame("camera", index, sample_image(index, height, width), video=True)


@pytest.mark.parametrize(
    ("flag", "rows", "columns"),
    [
        ("gate=10,20,30,40", (20, 60), (10, 40)),
        ("gate= 0, 0, 200, 100", (0, 100), (0, 200)),
        ("gate=10%,20%,30%,40%", (20, 60), (20, 80)),
        ("gate=0%,0%,100%,100%", (0, 100), (0, 200)),
        ("gate=33.3333%,0%,66.6667%,0.5%", (0, 1), (67, 200)),
        ("Tür 3=12.5%,0%,12.5%,100%", (0, 100), (25, 50)),
    ],
)
def test_a_region_is_in_pixels_or_in_per_cent_of_the_picture(
    flag: str, rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    (region,) = parse_regions([flag])
    assert region.place(200, 100) == (slice(*rows), slice(*columns))
    assert parse_regions([str(region)]) == (region,)


@pytest.mark.parametrize("side", range(3, 60))
def test_regions_in_per_cent_that_share_an_edge_neither_overlap_nor_leave_a_gap(side: int) -> None:
    thirds = parse_regions(["a=0%,0%,33.3%,100%", "b=33.3%,0%,33.3%,100%", "c=66.6%,0%,33.4%,100%"])
    spans = [region.place(side, 9)[1] for region in thirds]
    assert [span.start for span in spans] == [0, *(span.stop for span in spans[:2])]
    assert spans[2].stop == side


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["gate"], "NAME=X,Y,WIDTH,HEIGHT"),
        (["gate=1,2,3"], "four whole numbers or four per cent"),
        (["gate=1,2,3,4,5"], "four whole numbers or four per cent"),
        (["gate=1,2,3,nan"], "four whole numbers or four per cent"),
        (["gate=1,2,3,inf"], "four whole numbers or four per cent"),
        (["gate=-1,2,3,4"], "four whole numbers or four per cent"),
        (["gate=1.5,2,3,4"], "four whole numbers or four per cent"),
        (["gate=1%,2,3%,4%"], "four whole numbers or four per cent"),
        (["gate=1%,2%,3%,-4%"], "four whole numbers or four per cent"),
        (["gate=٣,2,3,4"], "four whole numbers or four per cent"),
        (["gate=1,2,0,4"], "a width and height above 0"),
        (["gate=1%,2%,3%,0.00%"], "a width and height above 0"),
        (["gate=0%,50%,10%,50.0001%"], "ends beyond 100 %"),
        (["gate=101%,0%,1%,1%"], "ends beyond 100 %"),
        (["=1,2,3,4"], "begins with neither blank nor dot"),
        ([" gate=1,2,3,4"], "begins with neither blank nor dot"),
        (["..=1,2,3,4"], "begins with neither blank nor dot"),
        (["a/b=1,2,3,4"], "printable characters without /"),
        (["a\x1b[31m=1,2,3,4"], "printable characters without /"),
        (["a\nb=1,2,3,4"], "printable characters without /"),
        (["a\udc80=1,2,3,4"], "printable characters without /"),
        (["gate@=1,2,3,4"], "the name of a source after the @"),
        (["g" * 61 + "=1,2,3,4"], "at most 60 bytes"),
        (["gate=1,2,3,4", "Gate=5,6,7,8"], "a name of its own for each region"),
        (["gate=1,2,3,4", "gate@video0=5,6,7,8"], "a name of its own for each region"),
        (["gr\u00fcn=1,2,3,4", "gru\u0308n=5,6,7,8"], "a name of its own for each region"),
    ],
)
def test_what_is_no_region_is_refused_and_the_message_says_what_was_expected(flags: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_regions(flags)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_password_in_a_flag_is_not_shown() -> None:
    with pytest.raises(UsageError) as caught:
        parse_regions(["gate@rtsp://anna:geheim@camera/live=1,2"])
    assert "geheim" not in str(caught.value)


def test_regions_are_of_every_source_or_of_the_one_that_is_named() -> None:
    captures = [Named("/dev/video0"), Named("rtsp://10.0.0.2/live"), Named("3 files", live=False)]
    flags = ["all=0,0,9,9", "gate@video0=1,1,2,2", "gate@10-0-0-2-live=3,3,4,4", "page@files=5,5,6,6"]
    found = regions_of(captures, parse_regions(flags))  # type: ignore[arg-type]
    named = {source: [f"{region.name} {region.left}" for region in regions] for source, regions in found.items()}
    assert named == {
        "/dev/video0": ["all 0", "gate 1"],
        "rtsp://10.0.0.2/live": ["all 0", "gate 3"],
        "3 files": ["all 0", "page 5"],
    }
    with pytest.raises(UsageError, match=r"gate@video7: .* video0, 10-0-0-2-live, files"):
        regions_of(captures, parse_regions(["gate@video7=1,1,2,2"]))  # type: ignore[arg-type]


def test_a_region_is_a_view_into_the_picture_with_a_name_of_its_own() -> None:
    cutter = RegionCutter(parse_regions(["gate=5,3,10,20", "dial=50%,50%,50%,50%"]), Events(), live=True)
    whole = frame(48, 64)
    gate, dial = cutter.cut(whole)
    assert whole.image is not None
    for part, pixels in ((gate, whole.image[3:23, 5:15]), (dial, whole.image[24:, 32:])):
        assert part is not None
        assert np.array_equal(part.image, pixels)
        assert np.shares_memory(part.image, whole.image)
        assert part.whole is part.picture is whole.image
        assert (part.source, part.index, part.video) == ("camera", 0, True)
    assert [part and part.name for part in (gate, dial)] == ["camera [gate]", "camera [dial]"]
    assert RegionCutter((), Events(), live=True).cut(whole) == [whole]


def test_of_a_file_a_region_outside_the_picture_is_an_error_and_the_next_file_may_have_it() -> None:
    cutter = RegionCutter(parse_regions(["gate=40,0,20,20", "dial=0,0,8,8"]), Events(), live=False)
    parts = [cutter.cut(frame(30, width, index)) for index, width in enumerate((50, 60, 59))]
    errors = [[part and part.error for part in row] for row in parts]
    outside = "the region gate=40,0,20,20 reaches beyond the picture, which is {}x30"
    assert errors == [[outside.format(50), None], [None, None], [outside.format(59), None]]
    assert parts[0][0] is not None
    assert parts[0][0].image is None
    with pytest.raises(ImageError, match="has no pixel of the picture, which is 50x30"):
        parse_regions(["line=0%,0%,0.5%,100%"])[0].place(50, 30)


def test_a_picture_that_can_not_be_read_is_an_error_of_every_region() -> None:
    cutter = RegionCutter(parse_regions(["gate=0,0,8,8", "dial=0,0,8,8"]), Events(), live=False)
    parts = cutter.cut(Frame("a.png", 0, None, "damaged"))
    assert [(part and part.name, part and part.error) for part in parts] == [
        ("a.png [gate]", "damaged"),
        ("a.png [dial]", "damaged"),
    ]


def test_of_a_live_source_a_region_outside_is_an_error_at_once_and_later_an_event() -> None:
    regions = parse_regions(["gate=40,0,20,20", "dial=0%,0%,50%,50%", "far=45,0,9,9"])
    with pytest.raises(UsageError, match=r"camera: the region gate=40,0,20,20 .* 50x30; give --region inside"):
        RegionCutter(regions, Events(), live=True).cut(frame(30, 50))
    told: list[Event] = []
    cutter = RegionCutter(regions, Events(told.append), live=True)
    cut = [
        [part and part.region for part in cutter.cut(frame(30, width, index))]
        for index, width in enumerate((60, 50, 50, 40, 80))
    ]
    every, few = ["gate", "dial", "far"], [None, "dial", None]
    assert cut == [every, few, few, few, every]
    assert [(event.kind, event.source) for event in told] == [("region-outside", "camera")] * 2
    outside = "the region {} reaches beyond the picture, which is 50x30; "
    regions_outside = outside.format("gate=40,0,20,20") + outside.format("far=45,0,9,9")
    assert told[0].detail == regions_outside + "left out until it fits"


def test_a_run_that_goes_on_after_a_fault_leaves_out_what_does_not_fit_from_the_start() -> None:
    told: list[Event] = []
    cutter = RegionCutter(parse_regions(["gate=40,0,20,20"]), Events(told.append), live=True, must_fit=False)
    assert cutter.cut(frame(30, 50)) == [None]
    assert [event.kind for event in told] == ["region-outside"]


def test_flags_are_read_without_opencv_and_numpy_as_a_supervisor_has_neither() -> None:
    code = (
        "import sys; from hybrid_edge.runtime.infer_request import InferRequest; "
        "InferRequest(('0',), regions=('gate=1,2,3,4',)); print({'cv2', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
