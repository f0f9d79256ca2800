"""For each rule of the table two machines: one that it is about, and one beside it, which it leaves alone.

Only the facts that matter are named; they are composed from documentation, not recorded.
"""

from typing import Any

ORIN = {"board": "NVIDIA Jetson AGX Orin Developer Kit", "jetson_linux": "36.4.3"}
ORIN_7 = {**ORIN, "jetson_linux": "39.2.0"}
THOR = {"board": "NVIDIA Jetson AGX Thor Developer Kit", "jetson_linux": "39.2.0"}
IMPORTED = {"numpy": "2.4.6", "cv2": "5.0.0"}


def tensorrt(version: str) -> dict[str, Any]:
    return {"packages": {"tensorrt": version}}


def packages(**versions: str) -> dict[str, Any]:
    return {"packages": {name.replace("_", "-"): version for name, version in versions.items()}}


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "tensorrt-10.13-orin": (
        {**ORIN_7, "system_packages": {"libnvinfer10": "10.13.3.9-1+cuda13.0"}},
        {**THOR, "system_packages": {"libnvinfer10": "10.13.3.9-1+cuda13.0"}},
    ),
    "tensorrt-11-jetpack-6": ({**ORIN, **tensorrt("11.4.1.9")}, {**ORIN_7, **tensorrt("11.4.1.9")}),
    "tensorrt-11-jetpack-7": ({**THOR, **tensorrt("11.2.1")}, {**THOR, **tensorrt("11.4.0")}),
    "tensorrt-old": (tensorrt("8.6.1"), tensorrt("10.3.0")),
    "tensorrt-int8-orin": ({**ORIN_7, **tensorrt("10.16.2.10")}, {**THOR, **tensorrt("10.16.2.10")}),
    "tensorrt-rtx-jetson": ({**ORIN, **packages(tensorrt_rtx="1.7.1")}, packages(tensorrt_rtx="1.7.1")),
    "cuda-python-driver": (
        {**packages(cuda_python="13.4.4"), "driver": "550.163.01"},
        {**packages(cuda_python="12.9.1"), "driver": "550.163.01"},
    ),
    "cuda-python-jetpack": (
        {**ORIN, **packages(cuda_python="12.9.1")},
        {**ORIN, **packages(cuda_python="12.9.1"), "cuda": "cudaSuccess 1"},
    ),
    "cuda-13-driver": (
        {**packages(onnxruntime_gpu="1.31.1"), "driver": "570.86.10"},
        {**packages(onnxruntime_gpu="1.26.0"), "driver": "570.86.10"},
    ),
    "no-driver": (packages(onnxruntime_gpu="1.31.1"), {**packages(onnxruntime_gpu="1.31.1"), "driver": "580.95.05"}),
    "numpy-2-opencv": (
        {**packages(numpy="2.2.6"), "import_failures": {"cv2": "numpy.core.multiarray failed to import"}},
        {**packages(numpy="1.26.4"), "import_failures": {"cv2": "libGL.so.1: cannot open shared object file"}},
    ),
    "opencv-rtsp": (packages(opencv_python="4.11.0.86"), packages(opencv_python="4.12.0.88")),
    "opencv-jpeg": (packages(opencv_python_headless="4.10.0.84"), {"imported": {**IMPORTED, "cv2": "4.8.1"}}),
    "opencv-twice": (
        packages(opencv_python="5.0.0.93", opencv_contrib_python="4.12.0.88"),
        packages(opencv_python="5.0.0.93"),
    ),
    "opencv-headless": (packages(opencv_python_headless="5.0.0.93"), packages(opencv_python="5.0.0.93")),
    "onnxruntime-twice": (
        packages(onnxruntime="1.31.1", onnxruntime_gpu="1.31.1"),
        packages(onnxruntime_gpu="1.31.1"),
    ),
    "onnxruntime-old": (
        {**packages(onnxruntime="1.27.0"), "python": "3.11.2"},
        {**packages(onnxruntime="1.31.0"), "python": "3.11.2"},
    ),
    "onnxruntime-last": (
        {**packages(onnxruntime="1.23.2"), "python": "3.10.12"},
        {**packages(onnxruntime="1.22.0"), "python": "3.10.12"},  # there is a later one: onnxruntime-old
    ),
    "onnx-old": (packages(onnx="1.21.0"), packages(onnx="1.22.0")),
    "keras-old": (packages(keras="3.14.0"), packages(keras="3.15.1")),
    "import-fails": (
        {"import_failures": {"numpy": "ended by SIGSEGV"}},
        {**packages(cuda_python="12.6.2"), "import_failures": {"cuda.bindings.runtime": "no libcuda.so.1"}},
    ),
    "library-missing": (
        {"imported": {"numpy": "2.4.6"}},
        {"imported": IMPORTED},
    ),
    "engine-missing": ({"python": "3.12.3"}, {"python": "3.12.3", "imported": {"tensorrt": "10.3.0"}}),
    "python-unfit": ({"python": "3.14.0"}, {"python": "3.13.5"}),
    "machine-unfit": ({"machine": "armv7l"}, {"machine": "aarch64"}),
    "no-vnni": ({"cpu_flags": ["avx2"]}, {"cpu_flags": ["avx2", "avx_vnni"]}),
    "no-dotprod": ({"cpu_flags": ["asimd"]}, {"cpu_flags": ["asimd", "asimddp"]}),
    "power-mode": ({**ORIN, "power_mode": "15W"}, {**ORIN, "power_mode": "MAXN_SUPER"}),
    "powersave": (
        {"governor": "powersave", "scaling_driver": "acpi-cpufreq"},
        {"governor": "powersave", "scaling_driver": "intel_pstate"},
    ),
    "clock-capped": ({"clock": 1190, "top_clock": 2201}, {"clock": 2200, "top_clock": 2201}),
    "throttled": ({"throttling": ["under-voltage"]}, {"throttling": []}),
    "cpu-quota": ({"cpu_quota": 0.5}, {"cpu_quota": 1.0}),
    "little-memory": ({"memory": 64000, "memory_limit": 1024, "swap": 0}, {"memory": 1024, "swap": 1024}),
    "disk-full": ({"cache_free": 0}, {"cache_free": 4000}),
    "cache-closed": ({"cache_writable": False, "cache": "/cache"}, {"cache_writable": None}),
    "camera-closed": (
        {"cameras": ["/dev/video0"], "closed_cameras": ["/dev/video0"]},
        {"cameras": ["/dev/video0"]},
    ),
    "camera-in-container": ({"container": "docker"}, {"container": "docker", "cameras": ["/dev/video0"]}),
    "gstreamer-missing": (ORIN, {**ORIN, "gstreamer": "gst-launch-1.0 version 1.20.3"}),
    "display-missing": ({}, {"display": ":0"}),
    "mqtt-missing": ({}, packages(paho_mqtt="2.2.0")),
    "web-missing": (packages(starlette="1.10.0"), packages(starlette="1.10.0", uvicorn="0.54.0")),
    "metrics-missing": ({}, packages(prometheus_client="0.26.0")),
    "time-not-set": ({"time": "1970-01-01T00:01:12Z"}, {"time": "2026-12-01T10:00:00Z"}),
    "time-unsynchronized": ({"time_synchronized": False}, {"time_synchronized": None}),
    "no-certificates": ({}, {"unknown": {"certificates": "no module ssl"}}),
    "no-home": ({"has_home": False}, {"has_home": None}),
}
