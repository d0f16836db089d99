"""Build the same models in one generation of Keras, in every kind of file that it writes, with what it computes.

Run as a program, in a process of its own::

    python tests/formats/build_keras_generations.py --directory DIR --package keras [--version 3.3.3] [--seed 0]

writes, for each model, its files, ``NAME.json`` (its architecture, for files of weights alone) and ``NAME.npz``: the
inputs, the framework's own float32 outputs, and those of the same model in float64, the oracle; then
``manifest.json``. Older releases are found as ``make_keras_fixtures.py`` says. What no framework at hand writes any
more, files of Keras 1, is written by h5py in the layout that Keras 2's own reader of such files documents; that reader
then makes the model.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Arrays = list[np.ndarray]

#: What builds each model: given the framework, it returns the model and its inputs.
MODELS: dict[str, Callable[[Any, np.random.Generator], tuple[Any, Arrays]]] = {}


def model(build: Callable[[Any, np.random.Generator], tuple[Any, Arrays]]) -> Callable[..., tuple[Any, Arrays]]:
    """Add a model to those that are built."""
    MODELS[build.__name__] = build
    return build


def masked(random: np.random.Generator, *shape: int) -> np.ndarray:
    """Return numbers of (batch, time, features), some steps of which are zero."""
    x = random.standard_normal(shape).astype(np.float32)
    x[0, 3:] = 0.0
    x[1, :2] = 0.0
    return x


# --- Models: k is Keras 2 or 3; L its layers --------------------------------------------------------------------------


@model
def nested(k: Any, random: np.random.Generator) -> tuple[Any, Arrays]:
    """A Functional model that holds a Sequential, called twice; several ends."""
    L = k.layers
    inside = L.Input((5, 3))
    steps = L.LSTM(2, return_sequences=True)(inside)
    deep = k.Sequential([L.Input((5, 2)), L.Dense(4), L.BatchNormalization()], name="deep")
    inner = k.Model(inside, [deep(L.Dense(2)(steps)), L.LSTM(3)(steps)], name="inner")
    x, y = L.Input((5, 3)), L.Input((5, 3))
    a, b = inner(L.Masking()(x))
    c, d = inner(y)
    tail = k.Sequential([L.Input((5, 4)), L.Bidirectional(L.LSTM(2))], name="tail")
    joined = L.Concatenate()([tail(a), tail(c), b, d])
    return k.Model([x, y], [L.Dense(2)(joined), a, d]), [
        masked(random, 3, 5, 3),
        random.standard_normal((3, 5, 3)).astype(np.float32),
    ]


@model
def masks_from_inside(k: Any, random: np.random.Generator) -> tuple[Any, Arrays]:
    """A nested model whose Embedding makes the mask that layers outside of it obey."""
    L = k.layers
    tokens = L.Input((6,))
    encoder = k.Model(tokens, L.Dense(3)(L.Embedding(9, 4, mask_zero=True)(tokens)), name="encoder")
    x = L.Input((6,))
    encoded = encoder(x)
    ends = [L.LSTM(3)(encoded), L.LSTM(2, return_sequences=True)(encoded), L.GlobalAveragePooling1D()(encoded)]
    numbers = random.integers(0, 9, (4, 6)).astype(np.float32)
    numbers[0, 4:] = 0.0
    numbers[1, :3] = 0.0
    return k.Model(x, ends), [numbers]


@model
def named_ends(k: Any, random: np.random.Generator) -> tuple[Any, Arrays]:
    """Nested models with dicts and lists of inputs and outputs, some of them masked."""
    L = k.layers
    a, b = L.Input((5, 3), name="a"), L.Input((5, 3), name="b")
    first = k.Model({"q": a, "p": b}, {"s": L.Add()([a, b]), "r": L.LSTM(2)(a)}, name="first")
    second = k.Model([a, b], L.LSTM(2)(L.Add()([a, b])), name="second")
    x, y = L.Input((5, 3), name="x"), L.Input((5, 3), name="y")
    steps = L.Masking()(y)
    both = first({"q": steps, "p": x})
    ends = [both["s"], both["r"], second([x, steps]), second({"a": steps, "b": steps}), L.LSTM(2)(both["s"])]
    return k.Model([x, y], ends), [random.standard_normal((3, 5, 3)).astype(np.float32), masked(random, 3, 5, 3)]


@model
def shared_inside(k: Any, random: np.random.Generator) -> tuple[Any, Arrays]:
    """A layer that stands in a model, in a model within another, and is called by itself."""
    L = k.layers
    lstm = L.LSTM(3, return_sequences=True)
    inside = L.Input((5, 3))
    twice = k.Model(inside, lstm(lstm(inside)), name="twice")
    x = L.Input((5, 3))
    outer = k.Model(x, L.Add()([twice(x), lstm(x), twice(twice(L.Masking()(x)))]), name="outer")
    y = L.Input((5, 3))
    return k.Model(y, [outer(y), twice(y)]), [masked(random, 3, 5, 3)]


@model
def frozen_inside(k: Any, random: np.random.Generator) -> tuple[Any, Arrays]:
    """Nested models that are frozen, whole or in part, which decides the order of their weights in legacy files."""
    L = k.layers
    whole = k.Sequential(
        [L.Input((5, 3)), L.BatchNormalization(), L.LSTM(2, return_sequences=True), L.BatchNormalization()],
        name="whole",
    )
    whole.trainable = False
    part = k.Sequential([L.Input((5, 2)), L.BatchNormalization(), L.Dense(3, trainable=False), L.Dense(2)], name="part")
    x = L.Input((5, 3))
    return k.Model(x, part(whole(x))), [random.standard_normal((3, 5, 3)).astype(np.float32)]


@model
def sequences_of_models(k: Any, random: np.random.Generator) -> tuple[Any, Arrays]:
    L = k.layers
    first = k.Sequential([L.Input((5, 3)), L.Masking(), L.LSTM(4, return_sequences=True)], name="first")
    second = k.Sequential([L.Input((5, 4)), k.Sequential([L.Input((5, 4)), L.LSTM(3)], name="third"), L.Dense(2)])
    built = k.Sequential([L.Input((5, 3)), first, second])
    return built, [masked(random, 3, 5, 3)]


@model
def steps_of_models(k: Any, random: np.random.Generator) -> tuple[Any, Arrays]:
    """Models for each step of a sequence: a Sequential with a model inside, and a Functional one."""
    L = k.layers
    inner = k.Sequential([L.Input((4, 2)), L.Masking(), L.LSTM(3)], name="inner")
    each = k.Sequential([L.Input((4, 2)), inner, L.Dense(2, activation="tanh"), L.BatchNormalization()], name="each")
    x = L.Input((5, 4, 2))
    steps = random.standard_normal((3, 5, 4, 2)).astype(np.float32)
    steps[0, :, 2:] = 0.0
    step = L.Input((4, 2))
    functional = k.Model(step, L.Dense(2)(L.LSTM(2)(step)), name="functional_each")
    joined = L.Concatenate()([L.TimeDistributed(each)(x), L.TimeDistributed(functional)(x)])
    return k.Model(x, [L.LSTM(2)(joined), joined]), [steps]


@model
def hard(k: Any, random: np.random.Generator) -> tuple[Any, Arrays]:
    """hard_sigmoid, whose slope tells the generations apart."""
    L = k.layers
    lstm = L.LSTM(3, recurrent_activation="hard_sigmoid", return_sequences=True)
    built = k.Sequential([L.Input((5, 3)), lstm, L.Dense(2, activation="hard_sigmoid")])
    return built, [random.standard_normal((3, 5, 3)).astype(np.float32)]


def _of_policy(policy: str) -> Callable[[Any, np.random.Generator], tuple[Any, Arrays]]:
    def build(k: Any, random: np.random.Generator) -> tuple[Any, Arrays]:
        L = k.layers
        # In float64 the policy gives way: the oracle computes with the same weights, rounded already.
        chosen = None if k.backend.floatx() == "float64" else policy
        # An orthogonal matrix, Keras's default for it, has no algorithm in half precision.
        lstm = L.LSTM(3, dtype=chosen, recurrent_initializer="zeros")
        built = k.Sequential([L.Input((5, 3)), lstm, L.Dense(2, dtype=chosen)])
        return built, [random.standard_normal((3, 5, 3)).astype(np.float32)]

    return build


POLICIES = ("float16", "bfloat16", "mixed_float16", "mixed_bfloat16")
#: What older releases cannot build, or what does not differ there.
INSTALLED_ONLY = {*POLICIES, "steps_of_models"}
MODELS |= {policy: _of_policy(policy) for policy in POLICIES}


def many_layers(k: Any, random: np.random.Generator) -> tuple[Any, Arrays]:
    """More layer names than one HDF5 attribute holds, so that Keras stores them in parts."""
    L = k.layers
    chain = [L.Dense(1, name=f"a_layer_with_a_name_that_takes_room_{'x' * 300}_{place}") for place in range(200)]
    return k.Sequential([L.Input((5, 3)), L.LSTM(2), *chain]), [random.standard_normal((2, 5, 3)).astype(np.float32)]


def cudnn(k: Any, random: np.random.Generator, *, plain: bool = False) -> tuple[Any, Arrays]:
    """The CuDNN layers of Keras 2: they are saved, but compute on a GPU alone; ``plain``: what Keras makes of them."""
    L = k.layers
    if plain:
        kinds = [L.LSTM, L.LSTM, L.GRU]
    else:
        from tf_keras.src.layers.rnn.cudnn_gru import CuDNNGRU
        from tf_keras.src.layers.rnn.cudnn_lstm import CuDNNLSTM

        kinds = [CuDNNLSTM, CuDNNLSTM, CuDNNGRU]
    x = L.Input((5, 3))
    y = L.Bidirectional(kinds[1](2, return_sequences=True), name="both")(
        kinds[0](4, return_sequences=True, name="a")(x)
    )
    return k.Model(x, kinds[2](3, name="b")(y)), [random.standard_normal((3, 5, 3)).astype(np.float32)]


# --- Keras 1 ----------------------------------------------------------------------------------------------------------

#: Options that every layer with a kernel had in Keras 1.
_KERNEL = {
    "init": "glorot_uniform", "W_regularizer": None, "b_regularizer": None, "activity_regularizer": None,
    "W_constraint": None, "b_constraint": None, "bias": True, "input_dim": None,
}  # fmt: skip
_RECURRENT = {
    "init": "glorot_uniform", "inner_init": "orthogonal", "activation": "tanh", "inner_activation": "hard_sigmoid",
    "go_backwards": False, "stateful": False, "unroll": False, "consume_less": "cpu", "W_regularizer": None,
    "U_regularizer": None, "b_regularizer": None, "dropout_W": 0.2, "dropout_U": 0.1, "input_length": None,
}  # fmt: skip


def _keras_1_layer(kind: str, name: str, **config: Any) -> dict[str, Any]:
    return {"class_name": kind, "config": {"name": name, "trainable": True, **config}}


def _keras_1_rnn(kind: str, name: str, units: int, features: int, **config: Any) -> dict[str, Any]:
    forget = {"forget_bias_init": "one"} if kind == "LSTM" else {}
    settings = {**_RECURRENT, **forget, "output_dim": units, "input_dim": features, "return_sequences": False, **config}
    return _keras_1_layer(kind, name, **settings)


def _by_gates(random: np.random.Generator, name: str, gates: str, features: int, units: int) -> list[tuple[str, Any]]:
    shapes = {"W": (features, units), "U": (units, units), "b": (units,)}
    return [
        (f"{name}_{array}_{gate}", random.uniform(-0.7, 0.7, shapes[array]).astype(np.float32))
        for gate in gates
        for array in "WUb"
    ]


def keras_1(k: Any, random: np.random.Generator, path: Path, version: str | None) -> tuple[Any, Arrays, Any]:
    """Write a file of Keras 1; return the model that Keras 2 makes of its weights, inputs, and the architecture."""
    import h5py
    from tf_keras.src.saving.legacy.hdf5_format import load_weights_from_hdf5_group

    embedding = {
        "batch_input_shape": [None, None], "input_dtype": "int32", "input_dim": 9, "output_dim": 4, "init": "uniform",
        "input_length": None, "mask_zero": True, "activity_regularizer": None, "W_regularizer": None,
        "W_constraint": None, "dropout": 0.0,
    }  # fmt: skip
    wrapped = _keras_1_rnn("LSTM", "lstm_2", 3, 5)
    layers = [
        _keras_1_layer("Embedding", "embedding_1", **embedding),
        _keras_1_rnn("LSTM", "lstm_1", 5, 4, return_sequences=True),
        _keras_1_layer("Dropout", "dropout_1", p=0.2),
        _keras_1_layer("Bidirectional", "bidirectional_1", merge_mode="concat", layer=wrapped),
        _keras_1_layer("GaussianNoise", "gaussiannoise_1", sigma=0.1),
        _keras_1_layer("Dense", "dense_1", output_dim=4, activation="softmax", **_KERNEL),
    ]
    config = {"class_name": "Sequential", "config": layers, "keras_version": version or "1.0.0"}
    both = _by_gates(random, "forward_lstm_2", "icfo", 5, 3) + _by_gates(random, "backward_lstm_2", "icfo", 5, 3)
    dense = [("dense_1_W", random.uniform(-1, 1, (6, 4))), ("dense_1_b", random.uniform(-1, 1, 4))]
    weights: list[list[tuple[str, Any]]] = [
        [("embedding_1_W", random.uniform(-1, 1, (9, 4)).astype(np.float32))],
        _by_gates(random, "lstm_1", "icfo", 4, 5),
        [],
        both,
        [],
        [(name, array.astype(np.float32)) for name, array in dense],
    ]
    whole = path.name != "keras_1_weights.h5"
    with h5py.File(path, "w") as file:
        if whole:
            file.attrs["model_config"] = json.dumps(config).encode()
            if version is not None:
                file.attrs["keras_version"] = version.encode()
        root = file.create_group("model_weights") if whole else file
        root.attrs["layer_names"] = [layer["config"]["name"].encode() for layer in layers]
        for layer, arrays in zip(layers, weights, strict=True):
            group = root.create_group(layer["config"]["name"])
            group.attrs["weight_names"] = [name.encode() for name, _ in arrays]
            for name, array in arrays:
                group[name] = array
    L = k.layers
    gates = {"recurrent_activation": "hard_sigmoid"}
    chain = [
        L.Embedding(9, 4, mask_zero=True, input_shape=(None,)),
        L.LSTM(5, return_sequences=True, **gates),
        L.Dropout(0.2),
        L.Bidirectional(L.LSTM(3, **gates)),
        L.GaussianNoise(0.1),
        L.Dense(4, activation="softmax"),
    ]
    built = k.Sequential(chain)
    with h5py.File(path) as file:
        load_weights_from_hdf5_group(file["model_weights"] if whole else file, built)
    numbers = random.integers(1, 9, (4, 6)).astype(np.float32)
    numbers[0, 4:] = 0.0
    # Keras 1 did not zero the masked steps of a Bidirectional; here only the last step is asked for, which agrees.
    return built, [numbers], config


# --- Recording --------------------------------------------------------------------------------------------------------


def outputs_of(built: Any, inputs: Arrays, dtype: str) -> Arrays:
    """Return what a model computes at inference, outputs in dicts by sorted key."""
    given = [x.astype(dtype) for x in inputs]
    found = built(given[0] if len(given) == 1 else given, training=False)

    def flat(value: Any) -> list[Any]:
        if isinstance(value, dict):
            value = [value[key] for key in sorted(value)]
        return [part for inner in value for part in flat(inner)] if isinstance(value, (list, tuple)) else [value]

    return [np.asarray(part).astype(dtype) for part in flat(found)]


def randomised(built: Any, random: np.random.Generator) -> None:
    """Give every weight its own random values, so that no two are taken for each other."""
    values = []
    for variable, old in zip(built.weights, built.get_weights(), strict=True):
        least, most = (0.5, 1.5) if "variance" in variable.name else (-0.7, 0.7)
        values.append(random.uniform(least, most, old.shape).astype(np.float32).astype(old.dtype))
    built.set_weights(values)


class Recorder:
    """Writes the models of one framework into a directory."""

    def __init__(self, directory: Path, k: Any, oracle: Any, save_archive: Callable[..., None], seed: int) -> None:
        self.directory, self.k, self.oracle, self.save_archive, self.seed = directory, k, oracle, save_archive, seed
        self.entries: list[dict[str, Any]] = []

    def random(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, 7])

    def add(
        self, name: str, files: list[tuple[str, str | None]], inputs: Arrays, outputs: Arrays, exact: Arrays
    ) -> None:
        """Note a model's files, each with the file of its configuration if it has none of its own."""
        arrays = {f"input_{place}": array for place, array in enumerate(inputs)}
        arrays |= {f"output_{place}": array for place, array in enumerate(outputs)}
        arrays |= {f"oracle_{place}": array for place, array in enumerate(exact)}
        np.savez(self.directory / f"{name}.npz", **arrays)
        self.entries += [{"name": name, "file": file, "config": config} for file, config in files]

    def in_float64(self, name: str, weights: Arrays, build: Callable[..., tuple[Any, Arrays]]) -> Arrays:
        """Return the outputs of the same model with the same weights in float64."""
        self.oracle.backend.set_floatx("float64")
        try:
            built, inputs = build(self.oracle, self.random())
            built.set_weights([array.astype(np.float64) for array in weights])
            return outputs_of(built, inputs, "float64")
        finally:
            self.oracle.backend.set_floatx("float32")

    def whole(self, name: str, build: Callable[..., tuple[Any, Arrays]], *, kinds: tuple[str, ...]) -> None:
        """Build a model and write it in every kind of file."""
        built, inputs = build(self.k, self.random())
        randomised(built, self.random())
        if self.oracle is None:  # Keras 3.3 loses masks where it converts to float64
            outputs = outputs_of(built, inputs, "float32")
            self.add(name, self.write(name, built, kinds), inputs, outputs, [one.astype("float64") for one in outputs])
            return
        exact = self.in_float64(name, built.get_weights(), build)
        # A policy of half precision is no part of what we compute.
        outputs = exact if name in POLICIES else outputs_of(built, inputs, "float32")
        outputs = [array.astype(np.float32) for array in outputs]
        self.add(name, self.write(name, built, kinds), inputs, outputs, exact)

    def write(self, name: str, built: Any, kinds: tuple[str, ...]) -> list[tuple[str, str | None]]:
        (self.directory / f"{name}.json").write_text(built.to_json(), encoding="utf-8")
        files: list[tuple[str, str | None]] = []
        for kind in kinds:
            file = f"{name}.{kind}"
            if kind.startswith("weights") or kind == "legacy.h5":
                built.save_weights(str(self.directory / file))
                files.append((file, f"{name}.json"))
            else:
                options = {"weights_format": "npz"} if kind == "npz.keras" else {}
                save = self.save_archive if kind.endswith("keras") else type(built).save
                save(built, str(self.directory / file), **options)
                files.append((file, None))
        return files


def build_all(directory: Path, recorder: Recorder, version: str, *, installed: bool) -> None:
    """Write all models of one framework."""
    keras_2 = version.startswith("2.")
    kinds = ("keras", "h5", "weights.h5", "legacy.h5") if keras_2 else ("keras", "h5", "weights.h5")
    if keras_2 and not installed:
        kinds = ("keras", "h5", "npz.keras")
    for name, build in MODELS.items():
        if (not installed and name in INSTALLED_ONLY) or (name == "named_ends" and version.startswith("3.3.")):
            continue
        own = kinds
        if name == "bfloat16":  # marked as such in archives alone, and by Keras 3 alone
            own = () if keras_2 else ("keras", "weights.h5")
        if own:
            recorder.whole(name, build, kinds=own)
    if installed:
        recorder.whole("many_layers", many_layers, kinds=("h5", "legacy.h5") if keras_2 else ("h5",))
    if installed and not keras_2:
        from keras.src.saving import saving_lib

        built, _ = hard(recorder.k, recorder.random())
        with (directory / "variables.npz.keras").open("wb") as file:
            saving_lib._save_model_to_fileobj(built, file, "npz")
    if keras_2 and installed:
        _older_than_keras_2(recorder)
    record = {"package": "keras", "version": version, "models": recorder.entries}
    (directory / "manifest.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"{len(recorder.entries)} files of Keras {version}")


def _older_than_keras_2(recorder: Recorder) -> None:
    """Write the files of CuDNN layers and of Keras 1."""
    from tf_keras.src.saving.legacy.hdf5_format import load_weights_from_hdf5_group

    built, inputs = cudnn(recorder.k, recorder.random())
    randomised(built, recorder.random())
    files = recorder.write("cudnn", built, ("keras", "h5", "weights.h5", "legacy.h5"))

    def plain(k: Any, random: np.random.Generator) -> tuple[Any, Arrays]:
        return cudnn(k, random, plain=True)

    import h5py

    usual, _ = plain(recorder.k, recorder.random())
    with h5py.File(recorder.directory / "cudnn.legacy.h5") as file:
        load_weights_from_hdf5_group(file, usual)
    (recorder.directory / "cudnn_plain.json").write_text(usual.to_json(), encoding="utf-8")
    # The weights of CuDNN layers under LSTM and GRU, as whoever moved from a GPU to a CPU loads them.
    files.append(("cudnn.legacy.h5", "cudnn_plain.json"))
    exact = recorder.in_float64("cudnn", usual.get_weights(), plain)
    recorder.add("cudnn", files, inputs, outputs_of(usual, inputs, "float32"), exact)

    for name, version in (("keras_1", "1.2.2"), ("keras_1_unversioned", None), ("keras_1_weights", None)):
        path = recorder.directory / f"{name}.h5"
        built, inputs, config = keras_1(recorder.k, recorder.random(), path, version)
        (recorder.directory / f"{name}.json").write_text(json.dumps(config), encoding="utf-8")
        (recorder.directory / f"{name}_in_keras_2.json").write_text(built.to_json(), encoding="utf-8")
        alone = name == "keras_1_weights"
        configs = [f"{name}.json", f"{name}_in_keras_2.json"] if alone else [None]

        def again(k: Any, random: np.random.Generator, path: Path = path) -> tuple[Any, Arrays]:
            return keras_1(k, random, path.with_suffix(".again.h5"), "1.2.2")[:2]

        exact = recorder.in_float64(name, built.get_weights(), again)
        path.with_suffix(".again.h5").unlink()
        recorder.add(name, [(path.name, one) for one in configs], inputs, outputs_of(built, inputs, "float32"), exact)


def main() -> None:
    """Write the models that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--package", choices=("keras", "tf_keras"), default="keras")
    parser.add_argument("--version", help="an older release")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    warnings.simplefilter("ignore")
    from make_keras_fixtures import import_framework

    k, save_archive, found = import_framework(arguments.package, arguments.version)
    oracle = k if not arguments.version else None
    if found.startswith("2.") and arguments.version:
        import tf_keras as oracle
    build_all(
        arguments.directory,
        Recorder(arguments.directory, k, oracle, save_archive, arguments.seed),
        found,
        installed=not arguments.version,
    )


if __name__ == "__main__":
    main()
