"""``hybrid-infer`` on a CPU engine that hangs in C when it is told to.

The file that ``HANG_ORDER`` names is the order: ``holding`` or ``released`` (the interpreter's lock), then ``once``
or ``always``; or ``failing once``: every batch fails from then on, and what closes the engine hangs. It is looked at
before each batch of a running worker, not while its bundle is checked; ``once`` takes it away.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt

sys.path.append(os.fspath(Path(__file__).parents[2]))

from hybrid_edge.runtime.commands.infer import main
from hybrid_edge.runtime.service.heartbeat import WORKER
from support.live.supervised import hang

Tensor = npt.NDArray[np.float32]


def register() -> None:
    """Put the hanging engine in the CPU engine's place."""
    from hybrid_edge.runtime.backends import ENGINES
    from hybrid_edge.runtime.backends.onnxruntime import OnnxRuntimeCpu
    from hybrid_edge.runtime.errors import BackendError

    order = Path(os.environ["HANG_ORDER"])

    class Hanging(OnnxRuntimeCpu):
        _failing = False

        def _infer(self, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            if threading.current_thread() is not threading.main_thread() and order.exists():
                words = order.read_text().split()
                if "once" in words:
                    order.unlink()
                self._failing = "failing" in words
                if not self._failing:
                    hang(holding="holding" in words)
            if self._failing:
                raise BackendError("the engine was told to fail")
            return super()._infer(tensors)

        def _release(self) -> None:
            if self._failing:
                hang(holding=False)
            super()._release()

    ENGINES["cpu"] = Hanging


if __name__ == "__main__":
    if WORKER in os.environ or "--no-supervise" in sys.argv:  # a supervisor loads no engine
        register()
    main()
