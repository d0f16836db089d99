"""Build random models in Keras, save them, and record what Keras and a float64 oracle make of them.

Run as a program, in a process of its own, because Keras takes its backend at import::

    KERAS_BACKEND=torch python tests/interop/build_keras.py --directory DIR --count 200 --seed 0
    python tests/interop/build_keras.py --package tf_keras ...      # Keras 2, which TensorFlow still carries

For every model it writes ``NAME.keras`` or ``NAME.h5`` and ``NAME.npz`` with the inputs (``input_0``, ...), the
framework's own float32 outputs (``output_0``, ...) and those of the oracle (``oracle_0``, ...), then one manifest,
``keras.json``.

The oracle is the same model, built a second time by the same random choices in float64, with the same weights:
Keras's own definition of every layer, without float32's rounding. It is computed on TensorFlow, in a process of its
own: on other backends Keras 3 multiplies float64 matrices in float32.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from keras_feedforward import BATCH, FEEDFORWARD_THEMES, FeedforwardThemes
from keras_recurrent import RECURRENT_THEMES, RecurrentThemes

#: Activations of Keras that an LSTM or a dense layer may name. exponential is drawn apart: it needs small inputs.
ACTIVATIONS = (
    "tanh", "sigmoid", "hard_sigmoid", "relu", "softsign", "elu", "selu", "softplus", "gelu", "silu", "linear",
    "leaky_relu",
)  # fmt: skip
KERAS_2_ACTIVATIONS = (*(name for name in ACTIVATIONS if name not in ("silu", "leaky_relu")), "swish")
RECURRENT_ACTIVATIONS = ("sigmoid", "hard_sigmoid", "tanh", "softsign")


def is_keras_2(keras: Any) -> bool:
    """Whether a module is that of Keras 2."""
    return bool(keras.__name__ == "tf_keras")


class Builder(FeedforwardThemes, RecurrentThemes):
    """Builds one random model; the same seed gives the same model in either precision.

    Parameters
    ----------
    keras
        The module ``keras`` or ``tf_keras``.
    seed
        Of every choice made.
    dtype
        ``"float32"`` or ``"float64"``.
    """

    def __init__(self, keras: Any, seed: list[int], dtype: str) -> None:
        self.keras = keras
        self.layers = keras.layers
        self.random = np.random.default_rng(seed)
        self.number = seed[-1]
        self.dtype = dtype
        self.is_keras_2 = is_keras_2(keras)
        self.inputs: list[np.ndarray] = []
        self.made_inputs: list[Any] = []  #: the symbolic inputs, in the order in which they were made
        self.mask: np.ndarray | None = None  #: given with the call
        self.has_mask = False  #: whether any layer may have made a mask
        self.names: Counter[str] = Counter()
        self.time = self.size(3, 8)

    # ---- choices

    def size(self, least: int, most: int) -> int:
        return int(self.random.integers(least, most + 1))

    def chance(self, probability: float) -> bool:
        return bool(self.random.random() < probability)

    def one_of(self, options: Any) -> Any:
        return options[int(self.random.integers(len(options)))]

    def make(self, class_name: str, *arguments: Any, **keywords: Any) -> Any:
        """Make a layer in this builder's precision, with a name that does not give its class away."""
        self.names[class_name] += 1
        if class_name not in ("Bidirectional", "TimeDistributed"):
            keywords["dtype"] = self.dtype
        name = f"{self.one_of('abcdefgh')}_{class_name.lower()[:4]}_{sum(self.names.values())}"
        return getattr(self.layers, class_name)(*arguments, name=name, **keywords)

    # ---- inputs

    def input(self, shape: tuple[int | None, ...], dtype: str | None = None, batch: int | None = None) -> Any:
        whole = (batch, *shape)
        self.made_inputs.append(self.keras.Input(batch_shape=whole, dtype=dtype or self.dtype))
        return self.made_inputs[-1]

    def sequence(self, *, fixed: bool = False, batch: int | None = None) -> Any:
        """Return an input of numbers, (time, features)."""
        features = self.size(1, 12)
        self.inputs.append(self.random.standard_normal((BATCH, self.time, features)).astype(np.float32))
        time = self.time if fixed or batch is not None or self.chance(0.5) else None
        return self.input((time, features), batch=batch)

    def masked_sequence(self) -> Any:
        """Return an input that goes through a Masking layer, with masked steps at any place."""
        features = self.size(1, 12)
        value = self.one_of((0.0, -1.0, 0.1))
        x = self.random.standard_normal((BATCH, self.time, features)).astype(np.float32)
        steps = self.random.random((BATCH, self.time)) < 0.4
        steps[0, 0] = True
        x[steps] = value
        # A step of which only some features have the value is not masked.
        x[-1, -1, 0] = value
        self.inputs.append(x)
        self.has_mask = True
        # The oracle compares a float32 0.1 with the double 0.1: give both the float32 one.
        made = self.make("Masking", mask_value=float(np.float32(value)))(self.input((None, features)))
        # A second one makes the mask anew, of the zeros that the first one has put, or of nothing.
        return self.make("Masking", mask_value=self.one_of((0.0, 7.0)))(made) if self.chance(0.2) else made

    def tokens(self, *, fixed: bool = False) -> Any:
        """Return an embedding of an input of token numbers, with or without a mask."""
        vocabulary = self.size(3, 20)
        numbers = self.random.integers(0, vocabulary, (BATCH, self.time)).astype(np.int32)
        numbers[self.random.random(numbers.shape) < 0.3] = 0
        self.inputs.append(numbers)
        self.has_mask = True
        embedding = self.make("Embedding", vocabulary, self.size(1, 12), mask_zero=not fixed and self.chance(0.7))
        return embedding(self.input((self.time if fixed else None,), dtype="int32"))

    def any_sequence(self) -> Any:
        return self.one_of((self.sequence, self.sequence, self.masked_sequence, self.tokens))()

    # ---- layers

    def activation(self) -> str:
        return str(self.one_of(KERAS_2_ACTIVATIONS if self.is_keras_2 else ACTIVATIONS))

    def lstm(self, *, sequences: bool, units: int | None = None, plain: bool = False, **keywords: Any) -> Any:
        """Return an LSTM layer with random options."""
        if not plain and self.chance(0.5):
            keywords.update(activation=self.activation(), recurrent_activation=self.one_of(RECURRENT_ACTIVATIONS))
        if not plain:
            keywords.setdefault("go_backwards", self.chance(0.25))
        return self.make(
            "LSTM",
            units or self.size(1, 20),
            return_sequences=sequences,
            use_bias=self.chance(0.8),
            unit_forget_bias=self.chance(0.5),
            dropout=self.one_of((0.0, 0.3)),
            recurrent_dropout=self.one_of((0.0, 0.2)),
            **keywords,
        )

    def bidirectional(self, *, sequences: bool, merge: Any = "any", **keywords: Any) -> Any:
        """Return a Bidirectional layer with random options, at times with a backward layer of its own."""
        if merge == "any":
            merge = self.one_of(("concat", "sum", "mul", "ave"))
        inner: dict[str, Any] = {**keywords}
        if self.chance(0.4):
            inner["activation"] = self.activation()
        units = self.size(1, 14)
        forward = self.lstm(sequences=sequences, units=units, plain=True, **inner)
        backward = {}
        if self.chance(0.3):
            other = self.lstm(sequences=sequences, units=units, plain=True, go_backwards=True, **inner)
            backward = {"backward_layer": other}
        return self.make("Bidirectional", forward, merge_mode=merge, **backward)

    def relu(self) -> Any:
        return self.make(
            "ReLU",
            max_value=self.one_of((None, 1.0)),
            negative_slope=self.one_of((0.0, 0.2)),
            threshold=self.one_of((0.0, 0.1)),
        )

    def normalisation(self) -> Any:
        if self.chance(0.5):
            return self.make("BatchNormalization", epsilon=1e-2, center=self.chance(0.7), scale=self.chance(0.7))
        # A generous epsilon, because a row of nearly equal values would otherwise be blown up with its rounding error.
        return self.make("LayerNormalization", epsilon=1e-1, center=self.chance(0.7), scale=self.chance(0.7))

    def noise(self) -> Any:
        """Return a layer that does nothing at inference."""
        kinds: list[tuple[str, dict[str, Any]]] = [
            ("Dropout", {"rate": 0.3}), ("GaussianNoise", {"stddev": 0.1}), ("GaussianDropout", {"rate": 0.2}),
            ("ActivityRegularization", {"l2": 0.0}),
        ]  # fmt: skip
        if not self.is_keras_2 or self.chance(0.5):
            kinds.append(("AlphaDropout", {"rate": 0.2}))
        # Few models have one at all, so that chance alone might leave a kind out: they take turns as well.
        drawn = int(self.random.integers(len(kinds)))
        kind, keywords = kinds[(drawn + self.number) % len(kinds)]
        return self.make(kind, **keywords)

    def pointwise(self) -> Any:
        """Return a layer that works on the last axis of a sequence or of a vector alike."""
        kinds = ("dense", "dense", "activation", "relu", "softmax", "normalisation", "normalisation", "noise")
        kind = self.one_of(kinds)
        # Keras's Softmax takes the mask of a sequence for one of scores and then refuses its shape.
        match "activation" if kind == "softmax" and self.has_mask else kind:
            case "dense":
                return self.make("Dense", self.size(1, 12), activation=self.activation(), use_bias=self.chance(0.8))
            case "activation":
                return self.make("Activation", self.one_of((self.activation(), "softmax")))
            case "relu":
                return self.relu()
            case "softmax":
                return self.make("Softmax")
            case "normalisation":
                return self.normalisation()
            case _:
                return self.noise()

    def time_distributed(self) -> Any:
        inner = self.one_of(
            (
                lambda: self.make("Dense", self.size(1, 10), activation=self.activation()),
                lambda: self.make("Activation", self.activation()),
                lambda: self.make("Dropout", 0.2),
                lambda: self.make("LayerNormalization", epsilon=1e-1),
            )
        )()
        return self.make("TimeDistributed", inner)

    def recurrent(self, *, sequences: bool) -> Any:
        return (self.bidirectional if self.chance(0.4) else self.lstm)(sequences=sequences)

    def over_time(self, tensor: Any, most: int = 3) -> Any:
        """Pass a sequence through some layers that keep its time axis, at least one of them recurrent."""
        recurrent_at = 0
        count = self.size(1, most)
        for place in range(count):
            if place == recurrent_at or self.chance(0.4):
                tensor = self.recurrent(sequences=True)(tensor)
            elif self.chance(0.3):
                tensor = self.time_distributed()(tensor)
            elif self.chance(0.25):
                tensor = self.make("SpatialDropout1D", 0.2)(tensor)
            else:
                tensor = self.pointwise()(tensor)
        return tensor

    def head(self, tensor: Any) -> Any:
        """Pass a vector through some dense layers."""
        for _ in range(self.size(0, 2)):
            tensor = self.pointwise()(tensor)
        # From two units on: a softmax over one is always 1 and would hide everything before it.
        activation = self.one_of(("softmax", "sigmoid", "linear", "tanh"))
        return self.make("Dense", self.size(2, 8), activation=activation)(tensor)

    # ---- whole models; each returns (inputs, outputs), or a Sequential

    def sequential(self) -> Any:
        """Sequential: [Masking or Embedding], LSTMs, dense layers."""
        start = self.any_sequence()
        chain = []
        for _ in range(self.size(0, 2)):
            chain.append(self.recurrent(sequences=True))
            if self.chance(0.5):
                chain.append(self.pointwise())
        chain.append(self.recurrent(sequences=self.chance(0.4)))
        chain += [self.pointwise() for _ in range(self.size(0, 2))]
        chain.append(self.make("Dense", self.size(2, 8), activation="softmax"))
        before = []
        history = getattr(start, "_keras_history", None)
        first = history[0] if history else None
        if first is not None and type(first).__name__ != "InputLayer":
            before = [first]
        x = self.inputs[0]
        shape: tuple[int | None, ...] = (None, *x.shape[2:])
        made = self.keras.Sequential([self.input(shape, dtype="int32" if x.ndim == 2 else None), *before, *chain])
        self.names["Sequential"] += 1
        return made

    def chain(self) -> Any:
        """Functional, one input and one output: sequence to vector."""
        start = self.any_sequence()
        return self.head(self.recurrent(sequences=False)(self.over_time(start, 2)))

    def tagger(self) -> Any:
        """Sequence to sequence of the same length, outputs of masked steps included."""
        return self.over_time(self.any_sequence(), 4)

    def branches(self) -> Any:
        """Two branches from one or two inputs, joined by Concatenate or Add."""
        first = self.sequence()
        second = first if self.chance(0.5) else self.sequence()
        units = self.size(1, 10)
        join = self.one_of(("Concatenate", "Add"))
        left = self.lstm(sequences=True, units=units)(first)
        right = self.lstm(sequences=True, units=units)(second)
        both = self.make(join)([left, right, self.make("Dense", units)(left)])
        return self.head(self.recurrent(sequences=False)(both))

    def masked_branches(self) -> Any:
        """Two recurrent branches of one masked sequence, joined over time and then as vectors."""
        start = self.one_of((self.masked_sequence, self.tokens))()
        units = self.size(1, 10)
        left = self.lstm(sequences=True, units=units, plain=True)(start)
        right = self.lstm(sequences=True, units=units, plain=True)(start)
        both = self.make(self.one_of(("Concatenate", "Add")))([left, right])
        vectors = [self.lstm(sequences=False, units=units)(both), self.bidirectional(sequences=False)(both)]
        return self.head(self.make("Concatenate")(vectors))

    def flattened(self) -> Any:
        """A fixed time axis, flattened into a vector."""
        start = self.tokens(fixed=True) if self.chance(0.4) else self.sequence(fixed=True)
        return self.head(self.make("Flatten")(self.over_time(start, 2)))

    def autoencoder(self) -> Any:
        """LSTM, RepeatVector, LSTM, TimeDistributed(Dense): the usual anomaly detector."""
        start = self.sequence()
        code = self.lstm(sequences=False)(start)
        repeated = self.make("RepeatVector", self.size(1, 7))(code)
        decoded = self.recurrent(sequences=True)(repeated)
        return self.make("TimeDistributed", self.make("Dense", self.size(1, 6)))(decoded)

    def encoder_decoder(self) -> Any:
        """return_state handed to a second LSTM's initial_state; several outputs."""
        units = self.size(1, 14)
        start = self.any_sequence()
        encoded, h, c = self.lstm(sequences=self.chance(0.5), units=units, return_state=True)(start)
        decoder_input = self.sequence()
        decoder = self.lstm(sequences=True, units=units)
        decoded = decoder(decoder_input, initial_state=[h, c])
        return [self.make("Dense", self.size(1, 5))(decoded), h, c, encoded]

    def states(self) -> Any:
        """Bidirectional with return_state: five outputs, and its states given to another."""
        start = self.any_sequence()
        units = self.size(1, 10)
        forward = self.lstm(sequences=True, units=units, plain=True, return_state=True)
        outputs = self.make("Bidirectional", forward, merge_mode=self.one_of(("concat", "sum", "mul", "ave")))(start)
        second_forward = self.lstm(sequences=False, units=units, plain=True)
        second = self.make("Bidirectional", second_forward)(self.sequence(), initial_state=list(outputs[1:]))
        return [*outputs, second]

    def unmerged(self) -> Any:
        """Bidirectional with merge_mode None: two outputs."""
        start = self.any_sequence()
        sequences = self.chance(0.5)
        forward, backward = self.bidirectional(sequences=sequences, merge=None)(start)
        return [self.make("Dense", self.size(1, 5))(forward), backward]

    def zeroed(self) -> Any:
        """zero_output_for_mask on a masked sequence."""
        start = self.one_of((self.masked_sequence, self.tokens))()
        return self.lstm(sequences=True, zero_output_for_mask=True)(start)

    def stateful(self) -> Any:
        """A stateful LSTM with a fixed batch; it starts from zero."""
        start = self.sequence(batch=BATCH)
        return self.head(self.lstm(sequences=False, stateful=True, go_backwards=False)(start))

    def two_outputs(self) -> Any:
        """Two inputs of different kinds, and outputs at two depths."""
        words = self.over_time(self.tokens(), 2)
        numbers = self.over_time(self.sequence(), 2)
        vectors = [self.lstm(sequences=False)(words), self.lstm(sequences=False)(numbers)]
        joined = self.make("Concatenate")(vectors)
        return [self.head(joined), words]

    def shared(self) -> Any:
        """One LSTM used twice (a siamese model): one set of weights, two calls."""
        features = self.size(1, 8)
        shape = (BATCH, self.time, features)
        self.inputs += [self.random.standard_normal(shape).astype(np.float32) for _ in range(2)]
        first, second = self.input((None, features)), self.input((None, features))
        layer = self.recurrent(sequences=False)
        joined = self.make("Concatenate")([layer(first), layer(second)])
        return self.head(joined)

    def exponential(self) -> Any:
        """The exponential activation, on inputs that keep it small."""
        features = self.size(1, 6)
        self.inputs.append((0.3 * self.random.standard_normal((BATCH, 2, features))).astype(np.float32))
        start = self.input((None, features))
        hidden = self.lstm(sequences=True, plain=True, activation="exponential")(start)
        small = self.make("Dense", self.size(1, 5), activation="tanh")(hidden)
        return self.make("Dense", self.size(1, 5), activation="exponential")(small)

    def given_mask(self) -> Any:
        """A mask that the caller gives, rather than a layer."""
        start = self.sequence()
        self.has_mask = True
        self.mask = self.random.random((BATCH, self.time)) < 0.6
        return self.over_time(start, 3)

    # ---- finishing

    def model(self, theme: str) -> Any:
        """Build the model of a theme."""
        built = getattr(self, theme)()
        if isinstance(built, self.keras.Sequential):
            return built
        return self.keras.Model(self.made_inputs, built)


THEMES = (
    "sequential", "chain", "sequential", "tagger", "branches", "masked_branches", "flattened", "autoencoder",
    "encoder_decoder", "states", "unmerged", "zeroed", "stateful", "two_outputs", "shared", "exponential", "given_mask",
    *FEEDFORWARD_THEMES, *RECURRENT_THEMES,
)  # fmt: skip


def randomised(model: Any, seed: list[int]) -> list[np.ndarray]:
    """Return random weights for a model: distinct values, of the size that training would leave."""
    random = np.random.default_rng(seed)
    weights = []
    for variable in model.weights:
        shape, name = tuple(variable.shape), variable.name
        if "seed" in name:  # the state of a dropout's random numbers, not a weight
            weights.append(np.asarray(variable))
        elif "count" in name:  # how much data a Normalization layer has seen: a whole number
            weights.append(np.zeros(shape, np.int64))
        elif "variance" in name or "gamma" in name:
            weights.append(random.uniform(0.5, 1.5, shape).astype(np.float32))
        elif len(shape) == 2:
            fan = shape[1] // 4 if "kernel" in name and shape[1] % 4 == 0 else shape[0]
            weights.append(random.uniform(-1.0, 1.0, shape).astype(np.float32) / np.float32(np.sqrt(max(fan, 1))))
        else:
            weights.append(random.uniform(-0.5, 0.5, shape).astype(np.float32))
    return weights


def computed(keras: Any, model: Any, builder: Builder) -> list[np.ndarray]:
    """Return a model's outputs at inference, as arrays."""
    arguments = [x.astype(builder.dtype) if x.dtype == np.float32 else x for x in builder.inputs]
    to_tensor = keras.ops.convert_to_tensor if hasattr(keras, "ops") else keras.backend.constant
    keywords = {} if builder.mask is None else {"mask": to_tensor(builder.mask, dtype="bool")}
    outputs = model(arguments[0] if len(arguments) == 1 else arguments, training=False, **keywords)
    if not isinstance(outputs, (list, tuple)):
        outputs = [outputs]
    to_numpy = keras.ops.convert_to_numpy if hasattr(keras, "ops") else np.asarray
    return [np.asarray(to_numpy(output)) for output in outputs]


def build_one(keras: Any, theme: str, seed: list[int], dtype: str) -> tuple[Any, Builder, list[np.ndarray]]:
    """Return a model of the given precision, its builder, and its outputs."""
    if not is_keras_2(keras):
        keras.backend.clear_session(free_memory=False)  # collecting garbage takes ten times as long as a model
    keras.backend.set_floatx(dtype)
    builder = Builder(keras, seed, dtype)
    model = builder.model(theme)
    model.set_weights(randomised(model, [*seed, 1]))
    for layer in model.layers:
        if hasattr(layer, "finalize_state"):  # a Normalization layer takes its weights over when it is told to
            layer.finalize_state()
    outputs = computed(keras, model, builder)
    for output in outputs:
        assert output.dtype == dtype, f"{theme} {seed}: expected outputs in {dtype}, found {output.dtype}"
    return model, builder, outputs


def recorded(builder: Builder, outputs: list[np.ndarray], oracles: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return everything that is recorded of a model, by name."""
    arrays = {f"input_{place}": array for place, array in enumerate(builder.inputs)}
    if builder.mask is not None:
        arrays["mask"] = builder.mask
    arrays |= {f"output_{place}": output for place, output in enumerate(outputs)}
    assert len(oracles) == len(outputs), f"expected {len(outputs)} outputs of the oracle, found {len(oracles)}"
    return arrays | oracles


def main() -> None:
    """Write the models that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--package", choices=("keras", "tf_keras"), default="keras")
    parser.add_argument("--formats", nargs="+", default=["keras", "h5"])
    parser.add_argument("--themes", nargs="+", default=THEMES)
    parser.add_argument("--oracle", action="store_true", help="compute the oracle alone: what the program asks itself")
    arguments = parser.parse_args()

    dtype = "float64" if arguments.oracle else "float32"
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.simplefilter("ignore")
    logging.getLogger("absl").setLevel(logging.ERROR)  # "HDF5 is considered legacy", for every file
    directory: Path = arguments.directory
    directory.mkdir(parents=True, exist_ok=True)
    oracle = None
    if not arguments.oracle:
        command = [sys.executable, __file__, *sys.argv[1:], "--oracle"]
        oracle = subprocess.Popen(command, env={**os.environ, "KERAS_BACKEND": "tensorflow"})
    keras = importlib.import_module(arguments.package)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)

    manifest: list[dict[str, Any]] = []
    waiting: list[tuple[str, Builder, list[np.ndarray]]] = []  # for the oracle, which runs beside this process
    covered: Counter[str] = Counter()
    for number in range(arguments.count):
        theme = arguments.themes[number % len(arguments.themes)]
        name = f"{arguments.package}_{theme}_{arguments.seed}_{number}"
        oracle_file = directory / f"{name}.oracle.npz"
        model, builder, outputs = build_one(keras, theme, [arguments.seed, number], dtype)
        if arguments.oracle:
            np.savez(oracle_file, **{f"oracle_{place}": output for place, output in enumerate(outputs)})
            continue
        form = arguments.formats[(number // len(arguments.themes) + number) % len(arguments.formats)]
        model.save(directory / f"{name}.{form}")
        waiting.append((name, builder, outputs))
        manifest.append({"name": name, "file": f"{name}.{form}", "layers": dict(builder.names)})
        covered.update(builder.names)
    if oracle is None:
        return
    if oracle.wait() != 0:
        raise SystemExit(f"the oracle's process failed with {oracle.returncode}")
    for name, builder, outputs in waiting:
        oracle_file = directory / f"{name}.oracle.npz"
        with np.load(oracle_file) as oracles:
            np.savez_compressed(directory / f"{name}.npz", **recorded(builder, outputs, dict(oracles)))
        oracle_file.unlink()
    backend = keras.backend.backend() if hasattr(keras.backend, "backend") else "tensorflow"
    record = {"package": arguments.package, "version": keras.__version__, "backend": backend, "models": manifest}
    (directory / "keras.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"{len(manifest)} models of {arguments.package} {keras.__version__} on {backend}: {dict(covered)}")


if __name__ == "__main__":
    main()
