"""Re-estimating BatchNormalization's statistics."""

from __future__ import annotations

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from hybrid_edge.train.batchnorm import moving_statistics, reestimate, restore_statistics, trained_norms


def model_with_norm() -> keras.Model:
    inner = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3), keras.layers.BatchNormalization()], name="inner"
    )
    image = keras.Input((4,))
    return keras.Model(image, keras.layers.Dense(2)(inner(image)))


def batches(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.normal(3.0, 2.0, (64, 4)).astype(np.float32) for _ in range(count)]


def test_the_statistics_become_those_of_the_images() -> None:
    model = model_with_norm()
    reestimate(model, batches(60), momentum=0.9)
    inner = model.get_layer("inner")
    values = np.concatenate(batches(60)) @ np.asarray(inner.layers[0].kernel) + np.asarray(inner.layers[0].bias)
    mean, variance = moving_statistics(model)
    np.testing.assert_allclose(mean, values.mean(axis=0), atol=0.4)
    np.testing.assert_allclose(variance, values.var(axis=0), rtol=0.2)


def test_no_weight_changes_and_the_momentum_is_put_back() -> None:
    model = model_with_norm()
    before = [variable.numpy() for variable in model.trainable_variables]
    reestimate(model, batches(3), momentum=0.5)
    for variable, value in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert trained_norms(model)[0].momentum == 0.99


def test_frozen_layers_are_left_alone() -> None:
    model = model_with_norm()
    model.get_layer("inner").trainable = False
    assert trained_norms(model) == []


def test_statistics_can_be_put_back() -> None:
    model = model_with_norm()
    before = moving_statistics(model)
    reestimate(model, batches(2))
    assert not np.allclose(moving_statistics(model)[0], before[0])
    restore_statistics(model, before)
    np.testing.assert_array_equal(moving_statistics(model)[0], before[0])
