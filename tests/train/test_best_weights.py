import numpy as np
import pytest

keras = pytest.importorskip("keras")

from hybrid_edge.train.best_weights import reestimate, trained_norms


@pytest.fixture
def model() -> keras.Model:
    inner = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3), keras.layers.BatchNormalization()], name="inner"
    )
    image = keras.Input((4,))
    return keras.Model(image, keras.layers.Dense(2)(inner(image)))


def batches(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.normal(3.0, 2.0, (64, 4)).astype(np.float32) for _ in range(count)]


def test_the_statistics_become_those_of_the_images_and_no_weight_changes(model: keras.Model) -> None:
    before = [variable.numpy() for variable in model.trainable_variables]
    reestimate(model, batches(60), momentum=0.9)
    dense, norm = model.get_layer("inner").layers
    values = np.concatenate(batches(60)) @ np.asarray(dense.kernel) + np.asarray(dense.bias)
    np.testing.assert_allclose(norm.moving_mean, values.mean(axis=0), atol=0.4)
    np.testing.assert_allclose(norm.moving_variance, values.var(axis=0), rtol=0.2)
    for variable, value in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert norm.momentum == 0.99


def test_frozen_layers_are_left_alone(model: keras.Model) -> None:
    model.get_layer("inner").trainable = False
    assert trained_norms(model) == []
