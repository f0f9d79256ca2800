"""Opens the live page that a request asks for, and tells it what a run gives: a sink like the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..console import say
from ..infer_request import InferRequest
from .access import Access, listen, read_token
from .http_server import HttpServer
from .live_state import LiveState
from .motion_jpeg import MotionJpeg
from .routes import Routes
from .workbench import Ask, Workbench

if TYPE_CHECKING:
    import asyncio

    from starlette.types import ASGIApp

    from ..classifier import Classifier
    from ..sources.capture import Capture


class LivePage(LiveState):
    """This sink serves what it is told, from ``start`` to ``close``.

    Raises:
        UsageError: the address can't be served, no token protects it, or token or certificate can't be used.
    """

    def __init__(self, request: InferRequest, captures: Sequence[Capture]) -> None:
        super().__init__(captures, request.top_k)
        self._min_probability = request.min_probability
        tls = None
        if request.web_cert is not None and request.web_key is not None:
            tls = request.web_cert, request.web_key
        token = read_token(request.web_token_file)
        listener, address = listen(request.web or "")
        self._pictures: MotionJpeg | None = None
        try:
            self._access = Access(address, token, tls=tls is not None)
            self._server = HttpServer(listener, tls)
        except BaseException:
            listener.close()
            raise

    @property
    def url(self) -> str:
        """The page's address."""
        return self._access.url

    def start(self, classifier: Classifier, ask: Ask) -> None:
        """Serve from now on; ``ask`` gives a picture to the engine, and returns what it will say."""
        self.model(classifier)

        def make_app(loop: asyncio.AbstractEventLoop) -> ASGIApp:
            self._pictures = pictures = MotionJpeg(self.picture, loop)
            workbench = Workbench(ask, self._top_k, self._min_probability)
            return Routes(self._access, self, pictures, workbench, lambda: self._bundle).app()

        self._server.start(make_app)
        say(f"live page: {self.url}{' (with the token)' if self._access.needs_token else ''}")

    def model(self, classifier: Classifier) -> None:
        """Let the API tell of this classifier's bundle."""
        self._bundle = describe_bundle(classifier)

    def close(self) -> None:
        """End the page and everything that serves it, within a second."""
        self._server.close()
        if self._pictures is not None:
            self._pictures.close()


def describe_bundle(classifier: Classifier) -> dict[str, Any]:
    """Return what the API tells of the model: its spec, the variant in use, all variants, the golden check."""
    manifest, selection, golden = classifier.bundle.manifest, classifier.selection, classifier.golden
    return {
        "model": manifest.spec.model_dump(mode="json"),
        "variant": selection.variant.name,
        "engine": selection.description,
        "variants": [
            {
                "name": variant.name,
                "precision": variant.precision,
                "target": variant.target,
                "recurrent": variant.recurrent,
                "size": variant.file.size,
                "parity": {
                    **variant.parity.model_dump(mode="json"),
                    "passed": variant.parity.passed,
                    "checks": [{**check._asdict(), "passed": check.passed} for check in variant.parity.checks],
                },
                "warnings": list(variant.warnings),
            }
            for variant in manifest.variants
        ],
        "golden": None
        if golden is None
        else {
            "examples": golden.examples,
            "probability_error": golden.probability_error,
            "tolerance": golden.tolerance,
            "milliseconds": golden.milliseconds,
        },
        "provenance": manifest.provenance.model_dump(mode="json"),
    }
