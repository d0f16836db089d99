"""Make ``two_inputs.keras``, with two inputs and two outputs, and what Keras predicts with it; needs Keras.

Run from the repository's root: ``KERAS_BACKEND=tensorflow python tests/cli_models/make_two_inputs.py``
"""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np

HERE = Path(__file__).parent


def main() -> None:
    """Write the model and its recorded inputs and outputs."""
    keras.utils.set_random_seed(5)
    readings = keras.Input((None, 3), name="readings")
    place = keras.Input((2,), name="place")
    hidden = keras.layers.LSTM(5, name="memory")(readings)
    joined = keras.layers.Concatenate(name="joined")([hidden, keras.layers.Dense(3, name="site")(place)])
    level = keras.layers.Dense(1, name="level")(joined)
    alarm = keras.layers.Dense(2, activation="softmax", name="alarm")(joined)
    model = keras.Model([readings, place], [level, alarm], name="two_inputs")
    model.save(HERE / "two_inputs.keras")
    random = np.random.default_rng(5)
    given = {
        "readings": random.standard_normal((7, 6, 3)).astype(np.float32),
        "place": random.standard_normal((7, 2)).astype(np.float32),
    }
    predicted = model.predict([given["readings"], given["place"]], verbose=0)
    np.savez(HERE / "two_inputs.npz", **given, level=predicted[0], alarm=predicted[1])


if __name__ == "__main__":
    main()
