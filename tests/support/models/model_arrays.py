"""The arrays of a model file as they lie in it: building the model for them takes seconds."""

import io
import zipfile
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[np.float32]]


def arrays_in(file: Path) -> Arrays:
    """All arrays by their names in the file."""
    found: Arrays = {}

    def take(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]

    with zipfile.ZipFile(file) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as content:
        content.visititems(take)
    return found


def cnn_arrays_in(file: Path) -> Arrays:
    """Those of the first nested model, the CNN branch."""
    return {name: array for name, array in arrays_in(file).items() if name.startswith("layers/functional/")}
