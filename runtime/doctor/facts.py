"""Facts are what is known of one machine: plain values, written as JSON and read again on another machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..errors import UsageError
from ..versions import release

MAX_TEXT = 300  # characters of one fact: versions and names are other people's, and end up on a terminal
MAX_ITEMS = 500  # of a list or a table


@dataclass(frozen=True)
class Facts:
    """One machine. None, or an empty list or table, is what is not there; ``unknown`` says why one could not be read.

    Memory and disk space are in MiB, clocks in MHz.
    """

    system: str | None = None  # kernel's name and release
    machine: str | None = None  # architecture, such as aarch64
    distribution: str | None = None
    python: str | None = None
    board: str | None = None  # of the device tree: NVIDIA Jetson Orin Nano …, Raspberry Pi 5 …
    jetson_linux: str | None = None  # such as 36.4.3
    container: str | None = None
    cpu: str | None = None
    cpu_flags: list[str] = field(default_factory=list)  # those that decide how INT8 is computed
    cores: int | None = None  # that this process may use
    cpu_quota: float | None = None  # cores' worth of time that its cgroup allows
    memory: int | None = None
    swap: int | None = None
    memory_limit: int | None = None  # of its cgroup
    power_mode: str | None = None  # a Jetson's, as nvpmodel names it
    governor: str | None = None
    scaling_driver: str | None = None
    clock: int | None = None  # the most that the governor may choose
    top_clock: int | None = None  # the most that the CPU can
    throttling: list[str] = field(default_factory=list)  # what slowed the machine down since it started
    packages: dict[str, str] = field(default_factory=dict)  # Python distributions that matter here
    system_packages: dict[str, str] = field(default_factory=dict)  # of dpkg: TensorRT, OpenCV, JetPack
    imported: dict[str, str] = field(default_factory=dict)  # modules that were imported, with their own version
    import_failures: dict[str, str] = field(default_factory=dict)  # modules that are there and can't be
    providers: list[str] = field(default_factory=list)  # ONNX Runtime's
    cuda: str | None = None  # what cuda-python said when it was asked for GPUs
    driver: str | None = None  # NVIDIA's
    gpus: list[str] = field(default_factory=list)
    cameras: list[str] = field(default_factory=list)  # /dev/videoN
    closed_cameras: list[str] = field(default_factory=list)  # those that this user may not open
    gstreamer: str | None = None
    display: str | None = None
    time: str | None = None  # now, UTC
    time_synchronized: bool | None = None
    certificates: str | None = None  # where TLS finds its authorities
    has_home: bool | None = None
    cache: str | None = None
    cache_free: int | None = None
    cache_writable: bool | None = None
    unknown: dict[str, str] = field(default_factory=dict)

    @property
    def is_jetson(self) -> bool:
        """Whether this is an NVIDIA Jetson."""
        return bool(self.jetson_linux) or "jetson" in (self.board or "").lower()

    @property
    def jetpack(self) -> int | None:
        """A Jetson's major version of JetPack: Jetson Linux 36 is 6, and 38 and 39 are 7."""
        numbers = release(self.jetson_linux)
        return {35: 5, 36: 6, 38: 7, 39: 7}.get(numbers[0]) if numbers else None

    @property
    def opencv(self) -> str | None:
        """OpenCV's version: of the module that was imported, else of pip's package, else of the system's."""
        own = (self.packages[name] for name in self.opencvs)
        return next(own, None) or self.imported.get("cv2") or self.system_opencv

    @property
    def opencvs(self) -> list[str]:
        """The installed distributions of OpenCV; all of them are one module."""
        return sorted(name for name in self.packages if name.startswith("opencv"))

    @property
    def system_opencv(self) -> str | None:
        """The version of the OpenCV that the system, or JetPack, brings for Python."""
        names = ("python3-opencv", "libopencv-python", "nvidia-opencv")
        return next((self.system_packages[name] for name in names if name in self.system_packages), None)

    @property
    def tensorrt(self) -> str | None:
        """TensorRT's version, not TensorRT-RTX's: of the module, else of pip's package, else of the system's."""
        own = (self.packages.get(name) for name in ("tensorrt", "tensorrt-cu12", "tensorrt-cu13"))
        system = (self.system_packages.get(name) for name in ("python3-libnvinfer", "libnvinfer10", "libnvinfer8"))
        return self.imported.get("tensorrt") or next(filter(None, (*own, *system)), None)

    @property
    def onnxruntimes(self) -> dict[str, str]:
        """The installed builds of ONNX Runtime, with their versions; all of them are one module."""
        return {name: version for name, version in self.packages.items() if name.startswith("onnxruntime")}

    @property
    def onnxruntime(self) -> str | None:
        """ONNX Runtime's version: of the module that was imported, else the installed package's."""
        return self.imported.get("onnxruntime") or next(iter(self.onnxruntimes.values()), None)

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON's own types."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Any) -> Facts:
        """Read facts that ``to_json`` gave, perhaps another version's: what it lacks is unknown, what is new left out.

        Raises:
            UsageError: a value is of another type than this version's.
        """
        if not isinstance(content, Mapping):
            raise UsageError(f"expected facts as a JSON object, found {type(content).__name__}; see --json")
        known = {item.name: str(item.type) for item in fields(cls)}
        return cls(**{name: bounded(name, known[name], content[name]) for name in known if name in content})


def bounded(name: str, kind: str, value: Any) -> Any:
    """Return a fact's value, checked against its type and with long texts cut.

    Raises:
        UsageError: the value is of another type.
    """
    if not _KINDS[kind](value):
        raise UsageError(f"fact {name}: expected {kind}, found {type(value).__name__}; record it with --json")
    if isinstance(value, str):
        return value[:MAX_TEXT]
    if isinstance(value, list):
        return [item[:MAX_TEXT] for item in value[:MAX_ITEMS]]
    if isinstance(value, dict):
        return {key[:MAX_TEXT]: item[:MAX_TEXT] for key, item in list(value.items())[:MAX_ITEMS]}
    return value


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


_KINDS: dict[str, Callable[[Any], bool]] = {
    "str | None": lambda value: value is None or _is_text(value),
    "int | None": lambda value: value is None or _is_whole(value),
    "float | None": lambda value: value is None or _is_whole(value) or isinstance(value, float),
    "bool | None": lambda value: value is None or isinstance(value, bool),
    "list[str]": lambda value: isinstance(value, list) and all(map(_is_text, value)),
    "dict[str, str]": lambda value: isinstance(value, dict) and all(map(_is_text, (*value, *value.values()))),
}
