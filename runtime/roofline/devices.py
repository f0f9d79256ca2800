"""Hold published rates of devices that are not here, for predictions.

A GPU's rates follow from its multiprocessors and its clock; the tests hold them against the TOPS and TFLOPS that its
maker prints, from which the halves for sparsity and for other accelerators (DLA) are left out: our graphs use neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ..errors import UsageError
from ..manifest import Target
from .cost import Arithmetic
from .rates import Rates

__all__ = ["ALIASES", "DEVICES", "predict_for"]

MIB = 2**20
GPU: tuple[Target, ...] = ("cuda", "tensorrt")
# multiply-accumulates of one multiprocessor a clock: FP32 on its CUDA cores, the others, dense, on its tensor cores
VOLTA: Mapping[Arithmetic, int] = {"fp32": 64, "fp16": 512, "int8": 1024}  # Xavier's; a V100's tensor cores lack INT8
ORIN: Mapping[Arithmetic, int] = {"fp32": 128, "fp16": 1024, "int8": 2048}
THOR: Mapping[Arithmetic, int] = {"fp32": 128, "fp16": 4096, "int8": 8192}

BRIEF = "NVIDIA's Jetson AGX Orin series technical brief (multiprocessors, TOPS, memory, L2)"
ORIN_NX = "NVIDIA's Jetson Orin NX series data sheet (clock, TOPS, memory)"
ORIN_NANO = "NVIDIA's Jetson Orin Nano series data sheet (clock, TOPS, memory)"
SUPER = "NVIDIA's announcement of the Orin Nano Super (clocks, dense TOPS, FP16 TFLOPS, memory, before and after)"
SUPER_NX = "NVIDIA's announcement of JetPack 6.2's Super modes (clock, TOPS, memory)"
XAVIER = "NVIDIA's Jetson Xavier NX data sheet (clock, memory), per clock as AGX Xavier's 22.6 INT8 TOPS"
THOR_SHEET = "NVIDIA's Jetson Thor series data sheet (clock, FP16 and FP8 TFLOPS, memory), INT8 as FP8"
QUERY = "L2 as CUDA's deviceQuery shows it"
H200 = "NVIDIA's H200 data sheet (TFLOPS and TOPS without sparsity, memory); L2 of its H100 white paper"
PI = (
    "4 Cortex-A76 at 2.4 GHz with two 128-bit pipes (Arm's Cortex-A76 software optimization guide: FMLA and SDOT); "
    "LPDDR4X-4267, 32 bits wide, 2 MB of L3 (Raspberry Pi's page of BCM2712)"
)


def _gpu(
    name: str, per_clock: Mapping[Arithmetic, int], processors: int, mhz: int, gbs: float, l2: int, *source: str
) -> Rates:
    """Return a GPU's rates; its L2 has no bandwidth here, as no maker prints one."""
    gmacs = {kind: processors * count * mhz / 1e3 for kind, count in per_clock.items()}
    clock = f"{processors} multiprocessors at {mhz} MHz"
    return Rates(name, gmacs, gbs, l2, None, "; ".join((clock, *source)), measured=False, targets=GPU)


def _stated(
    name: str, gmacs: Mapping[Arithmetic, float], gbs: float, cache: int, source: str, targets: tuple[Target, ...]
) -> Rates:
    return Rates(name, gmacs, gbs, cache, None, source, measured=False, targets=targets)


DEVICES: Mapping[str, Rates] = MappingProxyType(
    {
        "orin-nano-4": _gpu("Jetson Orin Nano 4GB", ORIN, 4, 625, 34, 2 * MIB, ORIN_NANO, QUERY),
        "orin-nano": _gpu("Jetson Orin Nano 8GB", ORIN, 8, 635, 68, 2 * MIB, SUPER, QUERY),
        "orin-nano-super": _gpu("Jetson Orin Nano 8GB, Super", ORIN, 8, 1020, 102, 2 * MIB, SUPER, QUERY),
        "orin-nx-8": _gpu("Jetson Orin NX 8GB", ORIN, 8, 765, 102.4, 2 * MIB, ORIN_NX, QUERY),
        "orin-nx-16": _gpu("Jetson Orin NX 16GB", ORIN, 8, 918, 102.4, 2 * MIB, ORIN_NX, QUERY),
        "orin-nx-16-super": _gpu("Jetson Orin NX 16GB, Super", ORIN, 8, 1173, 102.4, 2 * MIB, SUPER_NX, QUERY),
        "agx-orin-32": _gpu("Jetson AGX Orin 32GB", ORIN, 14, 930, 204.8, 4 * MIB, BRIEF),
        "agx-orin-64": _gpu("Jetson AGX Orin 64GB", ORIN, 16, 1300, 204.8, 4 * MIB, BRIEF),
        "xavier-nx": _gpu("Jetson Xavier NX", VOLTA, 6, 1100, 59.7, MIB // 2, XAVIER, QUERY),
        "thor": _gpu("Jetson Thor T5000", THOR, 20, 1575, 273, 32 * MIB, THOR_SHEET, QUERY),
        "h200": _stated("H200 SXM", {"fp32": 33_500, "fp16": 494_750, "int8": 989_500}, 4800, 50 * MIB, H200, GPU),
        # each core's two 128-bit pipes do 8 products a clock in FP32, 16 in FP16, 32 in INT8
        "rpi5": _stated(
            "Raspberry Pi 5, CPU", {"fp32": 76.8, "fp16": 153.6, "int8": 307.2}, 17.1, 2 * MIB, PI, ("cpu",)
        ),
    }
)
# a name without a size means the larger module
ALIASES: Mapping[str, str] = MappingProxyType({"orin-nx": "orin-nx-16", "agx-orin": "agx-orin-64"})


def predict_for(device: str) -> Rates:
    """Return the published rates of a device, by its name in ``DEVICES`` or ``ALIASES``.

    Raises:
        UsageError: the device is not in the table; the message lists those that are.
    """
    try:
        return DEVICES[ALIASES.get(device, device)]
    except KeyError:
        raise UsageError(
            f"expected one of {', '.join((*DEVICES, *ALIASES))} as the device whose rates are taken, found {device!r}; "
            "the machine that hybrid-bench runs on is measured with --probe"
        ) from None
