"""Every error that hybrid-edge raises on purpose belongs to one typed family.

    HybridEdgeError                     exit 1
    ├── UsageError                      exit 2   the command was called wrongly
    │   └── SpecError                            a ModelSpec that contradicts itself
    ├── DataError                       exit 1   a data set that can't be trained on
    │   └── CalibrationError                     no image to calibrate on, or activations that can't be calibrated
    ├── ImageError                               one image that can't be read, or without the ink that was looked for
    │   └── OversizedError                       a picture of more pixels than this device's memory is for
    ├── SourceError                              a source of frames that does not exist or gives none
    ├── WeightsError                             pretrained weights absent or not fitting
    ├── ModelFileError                           a model file that is damaged, or holds what is refused
    ├── RunError                                 no run folder, or one that can't be continued
    ├── ConversionError                          Keras to ONNX gave something other than what was declared
    ├── BundleError                              no bundle, or one that is malformed
    │   ├── ArtifactHashError                    a bundle's file differs from what the manifest recorded
    │   └── TrustError                           a bundle of another fingerprint, or not signed by whom it must be
    ├── BenchError                               a report of hybrid-bench that can't be read, plotted or compared
    ├── UpdateError                              a bundle that can't be fetched, or that this device can't run
    ├── ScoreError                               a folder of hybrid-score's results that can't be continued as asked
    ├── BackendError                             an inference engine failed
    │   ├── BackendUnavailableError              an engine, or a library it needs, is not installed here
    │   ├── ServerError                          a Triton server that does not answer, fails, or has other models
    │   ├── EngineError                          TensorRT could not parse, build or load; its own messages inside
    │   │   └── EngineMissingError               no engine for this machine yet, and none may be built (--no-build)
    │   └── InputError                           a tensor of the wrong name, dtype or shape, or not finite
    └── GateError                       exit 3   a result was computed and refused
        ├── ParityError                          ONNX and Keras disagree beyond the limits
        ├── GoldenError                          this device computes something else than the exporter did
        ├── Int8EngineError                      the INT8 graph does not build on this device; FP16 is offered
        └── RefusedUpdateError                   a new bundle is slower or less accurate here, or fails when tried

Each message says what was expected, what was found and what to do.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "ArtifactHashError",
    "BackendError",
    "BackendUnavailableError",
    "BenchError",
    "BundleError",
    "CalibrationError",
    "ConversionError",
    "DataError",
    "EngineError",
    "EngineMissingError",
    "GateError",
    "GoldenError",
    "HybridEdgeError",
    "ImageError",
    "InputError",
    "Int8EngineError",
    "ModelFileError",
    "OversizedError",
    "ParityError",
    "RefusedUpdateError",
    "RunError",
    "ScoreError",
    "ServerError",
    "SourceError",
    "SpecError",
    "TrustError",
    "UpdateError",
    "UsageError",
    "WeightsError",
]


class HybridEdgeError(Exception):
    """The base of the family; ``exit_code`` is the code with which a command that raised the error ends."""

    exit_code: ClassVar[int] = 1


class UsageError(HybridEdgeError):
    """The command was called with arguments that don't go together."""

    exit_code: ClassVar[int] = 2


class SpecError(UsageError):
    """The values of a ModelSpec contradict each other."""


class DataError(HybridEdgeError):
    """A data set can't be trained on: it has one class, an empty class, or nothing readable."""


class CalibrationError(DataError):
    """There is no image to calibrate on, or activations can't be calibrated: not finite, or not floating point."""


class ImageError(HybridEdgeError):
    """An image can't be read, or shows no ink; the message names the file and the reason."""


class OversizedError(ImageError):
    """A picture has more pixels than one frame may have on this device; nothing of it was decoded."""


class SourceError(HybridEdgeError):
    """A source of frames does not exist, or gives no frame."""


class WeightsError(HybridEdgeError):
    """Pretrained weights can't be had or don't fit the model."""


class ModelFileError(HybridEdgeError):
    """A model file is damaged, of another kind, or holds what could run or can't be converted."""


class RunError(HybridEdgeError):
    """There is no run folder where one is needed, or it can't be continued."""


class ConversionError(HybridEdgeError):
    """The ONNX graph is not the one that was declared: its inputs, outputs, operators or opset differ."""


class BundleError(HybridEdgeError):
    """There is no bundle where one is needed, or it is malformed."""


class ArtifactHashError(BundleError):
    """The bytes of a bundle's file differ from those that the manifest recorded."""


class TrustError(BundleError):
    """A bundle has another fingerprint than the one expected, or is not signed by whom this device trusts."""


class BenchError(HybridEdgeError):
    """A report of ``hybrid-bench`` can't be read, plotted or compared."""


class ScoreError(HybridEdgeError):
    """A folder of results holds those of other images, another bundle or other options, or a damaged file."""


class UpdateError(HybridEdgeError):
    """A new bundle can't be fetched or installed, or does not run here at all; the old one stays."""


class BackendError(HybridEdgeError):
    """An inference engine failed; the engine's own message is inside."""


class BackendUnavailableError(BackendError):
    """An engine that was asked for is not on this machine; the message names the extra to install."""


class ServerError(BackendError):
    """A Triton server does not answer, fails, or has not the models that were asked of it."""


class EngineError(BackendError):
    """TensorRT could not parse a graph, build an engine or load one; its own messages are inside."""


class EngineMissingError(EngineError):
    """No engine was made for this machine, TensorRT and options yet, and the caller does not want it built now."""


class InputError(BackendError):
    """A tensor's name, dtype, shape or values are not what the model declares."""


class GateError(HybridEdgeError):
    """A result was computed, compared with a limit, and refused."""

    exit_code: ClassVar[int] = 3


class ParityError(GateError):
    """The exported graph and the Keras model disagree beyond the limits."""


class GoldenError(GateError):
    """This device computes something else than the exporter did for the bundle's golden examples."""


class Int8EngineError(GateError):
    """TensorRT does not build the INT8 graph for this device; TensorRT's messages are inside, and FP16 is offered."""


class RefusedUpdateError(GateError):
    """A new bundle is slower or less accurate on this device than allowed, or failed while it was tried."""
