"""What ``hybrid-infer one.jpg`` does, one step after the other: prints each one's seconds and the peak memory by then.

    python first_prediction_steps.py BUNDLE PRECISION IMAGE

Started by ``first_prediction.py``; imports nothing before the clock runs.
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()
STEPS: list[dict[str, object]] = []


def step(name: str) -> None:
    """End a step."""
    global STARTED  # noqa: PLW0603  # the clock of the whole program
    now = time.perf_counter()
    with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123  # pathlib is an import to be timed
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    STEPS.append({"name": name, "seconds": now - STARTED, "peak_mb": peak * 1024 / 1e6})
    STARTED = time.perf_counter()


def main() -> None:
    """Do all of it."""
    import sys

    _, bundle, precision, image = sys.argv
    from hybrid_edge.runtime.pipeline import classify, launch  # noqa: F401

    step("import_of_the_command")
    import onnxruntime  # noqa: F401

    step("import_of_onnxruntime")
    from hybrid_edge.runtime.backends import open_backend
    from hybrid_edge.runtime.bundle import Bundle
    from hybrid_edge.runtime.golden import prove_golden
    from hybrid_edge.runtime.preprocess import Preprocessor, read_image

    opened = Bundle.open(bundle)
    step("manifest")
    for variant in opened.manifest.variants:
        if (variant.target, variant.precision) == ("cpu", precision):
            opened.verified(variant.file)
    step("hash_of_the_artifact")
    selection = open_backend(opened, "cpu", precision)
    step("session")
    preprocessor = Preprocessor(opened.spec)
    prove_golden(opened, selection.variant, selection.backend, preprocessor)
    step("golden_check")
    tensors = preprocessor([read_image(image)])
    step("reading_the_image")
    selection.backend.run(tensors)
    step("inference")
    import json

    print(json.dumps({"steps": STEPS}))


if __name__ == "__main__":
    main()
