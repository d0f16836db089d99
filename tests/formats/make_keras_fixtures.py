"""Record small models as Keras itself writes them, and what Keras itself says is in them.

::

    python tests/formats/make_keras_fixtures.py [--only NAME]

runs itself once for each writer in :data:`WRITERS`: Keras 3 and tf-keras as installed, and older releases from folders
that ``pip install --no-deps --target tests/formats/.keras/VERSION keras==VERSION`` fills (3.0.5 needs dm-tree, attrs
and wrapt there as well). Each writes ``data/keras/WRITER.tar.xz``: the models' files byte for byte (``NAME.keras``,
``NAME.h5``), ``NAME.npz`` with every weight as the framework holds it, and ``expected.json`` with the graphs.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import io
import json
import os
import subprocess
import sys
import tempfile
import types
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from recording import pack

HERE = Path(__file__).parent
DATA = HERE / "data" / "keras"

#: Every writer: the package, and the release if it is not the installed one.
WRITERS = {
    "keras-3.15.1": ("keras", None),
    "tf_keras-2.21.0": ("tf_keras", None),
    "keras-3.9.2": ("keras", "3.9.2"),
    "keras-3.3.3": ("keras", "3.3.3"),
    "keras-3.0.5": ("keras", "3.0.5"),
    "keras-2.14.0": ("keras", "2.14.0"),
    "keras-2.13.1": ("keras", "2.13.1"),
    "keras-2.12.0": ("keras", "2.12.0"),
}

MODELS: dict[str, Callable[[Any], Any]] = {}
WEIGHT_NAMES = (
    "embeddings",
    "kernel",
    "recurrent_kernel",
    "bias",
    "gamma",
    "beta",
    "moving_mean",
    "moving_variance",
)
#: Models that older releases record as well.
OLD = ("chain", "wrappers", "shared_in_wrapper", "masks", "shared_layers")


def model(build: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Add a model to those that are recorded."""
    MODELS[build.__name__] = build
    return build


# --- Models: k is Keras 2 or 3; L its layers ----------------------------------------------------------------------


@model
def chain(k: Any) -> Any:
    L = k.layers
    return k.Sequential(
        [
            L.Input((5, 3), name="samples"),
            L.Masking(0.5),
            L.LSTM(4, return_sequences=True, recurrent_activation="hard_sigmoid"),
            L.Dropout(0.1),
            L.LSTM(4, return_sequences=True, dropout=0.2, recurrent_dropout=0.1, use_bias=False),
            L.BatchNormalization(),
            L.Dense(2, activation="relu", name="head"),
            L.Dense(3, use_bias=False),
        ]
    )


@model
def every_layer(k: Any) -> Any:
    L = k.layers
    return k.Sequential(
        [
            L.Input((6,)),
            L.Embedding(7, 4),
            L.SpatialDropout1D(0.1),
            L.GaussianDropout(0.1),
            L.GaussianNoise(0.1),
            L.AlphaDropout(0.1),
            L.ActivityRegularization(0.01),
            L.Activation("tanh"),
            L.LayerNormalization(),
            L.LayerNormalization(center=False, scale=False),
            L.BatchNormalization(scale=False),
            L.BatchNormalization(center=False),
            L.ReLU(),
            L.LeakyReLU(),
            L.ELU(),
            L.Softmax(),
            L.Permute((2, 1)),
            L.Reshape((6, 4)),
            L.LSTM(3, go_backwards=True, return_sequences=True),
            L.Flatten(),
            L.RepeatVector(2),
            L.LSTM(2, return_sequences=True),
            L.GlobalMaxPooling1D(),
            L.RepeatVector(3),
            L.GlobalAveragePooling1D(),
        ]
    )


@model
def wrappers(k: Any) -> Any:
    L = k.layers
    x = L.Input((5, 3))
    both = L.Bidirectional(L.LSTM(2, return_sequences=True, activation="relu"), merge_mode=None)(x)
    y = L.Concatenate()(list(both))
    y = L.Bidirectional(
        L.LSTM(2, return_sequences=True, activation="relu"),
        backward_layer=L.LSTM(2, return_sequences=True, go_backwards=True, use_bias=False, activation="relu"),
    )(y)
    y = L.TimeDistributed(L.BatchNormalization())(y)
    y = L.TimeDistributed(L.Dense(3))(y)
    return k.Model(x, L.TimeDistributed(L.Dense(2, use_bias=False))(y))


@model
def nested_wrappers(k: Any) -> Any:
    L = k.layers
    x = L.Input((4, 5, 3))
    y = L.TimeDistributed(L.Bidirectional(L.LSTM(2)))(x)
    return k.Model(x, L.TimeDistributed(L.TimeDistributed(L.Dense(2)))(L.Reshape((4, 2, 2))(y)))


@model
def frozen(k: Any) -> Any:
    L = k.layers
    forward = L.LSTM(2, return_sequences=True)
    backward = L.LSTM(2, return_sequences=True, go_backwards=True)
    forward.trainable = False
    x = L.Input((5, 3))
    y = L.Bidirectional(forward, backward_layer=backward)(x)
    y = L.BatchNormalization(trainable=False)(y)
    y = L.TimeDistributed(L.BatchNormalization())(y)
    y = L.LSTM(3, trainable=False)(y)
    return k.Model(x, L.Dense(2)(y))


@model
def several_ends(k: Any) -> Any:
    L = k.layers
    tokens = L.Input((None,), dtype="int32", name="tokens")
    extra = L.Input((4,), name="extra")
    x = L.Embedding(9, 3, mask_zero=True)(tokens)
    y, h, c = L.LSTM(4, return_state=True, return_sequences=True)(x)
    z = L.LSTM(4)(y, initial_state=[h, c])
    w = L.Bidirectional(L.LSTM(4))(y, initial_state=[h, c, h, c])
    joined = L.Concatenate()([z, w, extra])
    outputs = {"b": L.Dense(2, name="zz")(joined), "a": L.Dense(1, name="yy")(joined)}
    return k.Model([extra, tokens], outputs)


@model
def shared_layers(k: Any) -> Any:
    L = k.layers
    x, y = L.Input((5, 3)), L.Input((5, 3))
    dense, lstm = L.Dense(3), L.LSTM(2, activation="relu")
    return k.Model([y, x], [L.Add()([lstm(dense(x)), lstm(dense(dense(y)))]), lstm(x)])


@model
def shared_in_wrapper(k: Any) -> Any:
    L = k.layers
    x = L.Input((5, 3))
    dense = L.Dense(2)
    y = L.Add()([L.TimeDistributed(dense)(x), dense(x)])
    return k.Model(x, L.Dense(2)(L.Dense(2)(y)))


@model
def merges(k: Any) -> Any:
    L = k.layers
    x, y = L.Input((5, 3)), L.Input((5, 3))
    both = [x, y]
    parts = [merge(both) for merge in (L.Add(), L.Subtract(), L.Multiply(), L.Average(), L.Maximum(), L.Minimum())]
    return k.Model(both, L.LSTM(2)(L.Concatenate(axis=1)([*parts, L.Concatenate(axis=-2)(both)])))


@model
def masks(k: Any) -> Any:
    L = k.layers
    x = L.Input((5, 3))
    masked = L.Masking()(x)
    y = L.Bidirectional(L.LSTM(3, return_sequences=True, activation="relu"))(masked)
    y = L.TimeDistributed(L.Dense(3))(y)
    return k.Model(x, L.LSTM(2, activation="relu")(L.Dropout(0.1)(L.Average()([masked, y]))))


@model
def masks_joined(k: Any) -> Any:
    L = k.layers
    x, y = L.Input((5, 3)), L.Input((5,))
    masked, embedded = L.Masking(-1.0)(x), L.Embedding(4, 3, mask_zero=True)(y)
    joined = L.Concatenate()([L.LSTM(2, return_sequences=True)(masked), embedded, x])
    return k.Model([x, y], [L.GlobalAveragePooling1D()(joined), L.LSTM(2)(L.Maximum()([masked, embedded]))])


@model
def author_masks(k: Any) -> Any:
    """Masks that the model's author gives: one computed, one an input, one that travels along anyway."""
    L = k.layers
    x, counts, tokens = L.Input((5, 3)), L.Input((5,), dtype="bool"), L.Input((5,))
    computed = L.LSTM(2, name="computed")(x, mask=k.ops.not_equal(tokens, 2))
    given = L.LSTM(2, name="given")(L.Masking()(x), mask=counts)
    return k.Model([x, counts, tokens], [computed, given])


@model
def stateful(k: Any) -> Any:
    L = k.layers
    x = L.Input(batch_shape=(2, 5, 3))
    y = L.LSTM(2, stateful=True, return_sequences=True, unroll=True)(x)
    return k.Model(x, L.Bidirectional(L.LSTM(2, stateful=True))(y))


@model
def without_input(k: Any) -> Any:
    L = k.layers
    built = k.Sequential([L.LSTM(3), L.Dense(2)], name="without_input")
    built.build((None, 5, 3))
    return built


@model
def input_shape(k: Any) -> Any:
    L = k.layers
    return k.Sequential([L.Bidirectional(L.LSTM(3), input_shape=(5, 3)), L.Dense(2)])


@model
def half_precision(k: Any) -> Any:
    return _of_dtype(k, "float16")


@model
def brain_precision(k: Any) -> Any:
    return _of_dtype(k, "bfloat16")


@model
def mixed_precision(k: Any) -> Any:
    return _of_dtype(k, "mixed_float16")


@model
def double_precision(k: Any) -> Any:
    return _of_dtype(k, "float64")


def _of_dtype(k: Any, dtype: str) -> Any:
    L = k.layers
    # An orthogonal matrix, Keras's default for it, has no algorithm in half precision.
    lstm = L.LSTM(3, dtype=dtype, recurrent_initializer="zeros")
    return k.Sequential([L.Input((5, 3), dtype="float32"), lstm, L.Dense(2, dtype=dtype)])


#: Models that only Keras 3 has.
KERAS_3_ONLY = {"author_masks", "brain_precision"}
#: Models whose legacy file Keras cannot read itself: bfloat16 without a mark, operations without their module.
ONLY_ARCHIVE = {"brain_precision"}
#: Models whose legacy file Keras 3.0 cannot write: it gives the weights of both directions the same names.
NAMED_TWICE = {"wrappers", "masks"}
#: Models of functional layers with layer keyword arguments that Keras 3 no longer has.
KERAS_2_ONLY = {"input_shape"}


# --- What the framework says ----------------------------------------------------------------------------------------


def parts_of(layer: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Iterate over a layer and those that it wraps, each with its roles."""
    yield path, layer
    kind = type(layer).__name__
    roles = {"Bidirectional": ("forward_layer", "backward_layer"), "TimeDistributed": ("layer",)}.get(kind, ())
    for role in roles:
        yield from parts_of(getattr(layer, role), f"{path}{role}/")


def weights_of(layer: Any) -> dict[str, np.ndarray]:
    """Return a layer's weights by name, as float32 where the dtype is bfloat16, which NumPy lacks."""
    arrays: dict[str, np.ndarray] = {}
    for roles, part in parts_of(layer):
        if type(part).__name__ in ("Bidirectional", "TimeDistributed"):
            continue
        holder = part.cell if type(part).__name__ == "LSTM" else part
        for name in WEIGHT_NAMES:
            variable = getattr(holder, name, None)
            if variable is not None:
                value = variable.numpy() if hasattr(variable, "numpy") else np.asarray(variable)
                arrays[f"{roles}{name}"] = value.astype(np.float32) if value.dtype.kind == "V" else value
    return arrays


def randomize(built: Any) -> None:
    """Give every weight its own random values, so that no two are taken for each other."""
    rng = np.random.default_rng(len(built.layers))
    for layer in built.layers:
        values = []
        for old in layer.get_weights():
            value = rng.normal(size=old.shape) if old.dtype.kind in "fV" else np.asarray(old)
            values.append(value.astype(old.dtype))
        layer.set_weights(values)


def graph_of(built: Any, *, keras_3: bool) -> dict[str, Any]:
    """Return the layers, their calls and the ends of a model, as the live model has them."""
    layers = [{"name": layer.name, "class_name": type(layer).__name__} for layer in built.layers]
    if type(built).__name__ == "Sequential":
        return {"name": built.name, "sequential": True, "layers": layers}
    describe = _graph_of_keras_3 if keras_3 else _graph_of_keras_2
    calls, inputs, outputs = describe(built)
    for entry in layers:
        entry["calls"] = calls[entry["name"]]
    return {"name": built.name, "sequential": False, "layers": layers, "inputs": inputs, "outputs": outputs}


def _graph_of_keras_3(built: Any) -> tuple[dict[str, Any], list[Any], list[Any]]:
    tree = importlib.import_module("keras.src.tree") if importlib.util.find_spec("keras.src.tree") else None
    flatten = tree.flatten if tree else importlib.import_module("tree").flatten
    make_key = importlib.import_module("keras.src.ops.function").make_node_key
    own = built._nodes

    def key(operation: Any, number: int) -> Any:
        nodes = inspect.signature(make_key).parameters
        return make_key(operation, number) if len(nodes) == 2 else make_key(operation._inbound_nodes[number])

    def reference(tensor: Any) -> list[Any]:
        operation, number, output = tensor._keras_history
        before = [place for place in range(number) if key(operation, place) in own]
        return [operation.name, len(before), output]

    calls = {}
    for layer in built.layers:
        calls[layer.name] = []
        for number, node in enumerate(layer._inbound_nodes):
            if key(layer, number) not in own or not node.arguments.keras_tensors:
                continue
            args, kwargs = node.arguments.args, node.arguments.kwargs
            states = kwargs.get("initial_state") or (args[1] if len(args) > 1 else None)
            tensors = flatten(args[0]) + (flatten(states) if states is not None else [])
            calls[layer.name].append([reference(tensor) for tensor in tensors])
    return calls, [reference(x) for x in built.inputs], [reference(y) for y in built.outputs]


def _graph_of_keras_2(built: Any) -> tuple[dict[str, Any], list[Any], list[Any]]:
    own = built._network_nodes

    def index(layer: Any, number: int) -> int:
        return sum(f"{layer.name}_ib-{place}" in own for place in range(number))

    def reference(tensor: Any) -> list[Any]:
        layer, number, output = tensor._keras_history
        return [layer.name, index(layer, number), output]

    calls = {
        layer.name: [
            [reference(tensor) for tensor in node.keras_inputs]
            for number, node in enumerate(layer._inbound_nodes)
            if f"{layer.name}_ib-{number}" in own and not node.is_input
        ]
        for layer in built.layers
    }
    return calls, [reference(x) for x in built.inputs], [reference(y) for y in built.outputs]


# --- Writers ------------------------------------------------------------------------------------------------------


def record(name: str, package: str, version: str | None) -> None:
    """Write all models of one writer, in a process of its own."""
    k, save_archive, found = import_framework(package, version)
    keras_3 = found.startswith("3.")
    wanted = OLD if version else MODELS
    left_out = KERAS_2_ONLY if keras_3 else KERAS_3_ONLY
    files: dict[str, bytes] = {}
    expected: dict[str, Any] = {"version": found, "models": {}}
    for title in wanted:
        if title in left_out:
            continue
        built = MODELS[title](k)
        randomize(built)
        arrays = {
            f"{layer.name}/{weight}": value for layer in built.layers for weight, value in weights_of(layer).items()
        }
        expected["models"][title] = graph_of(built, keras_3=keras_3)
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        files[f"{title}.npz"] = buffer.getvalue()
        with tempfile.TemporaryDirectory() as folder:
            archive, legacy = Path(folder, "m.keras"), Path(folder, "m.h5")
            save_archive(built, str(archive))
            files[f"{title}.keras"] = archive.read_bytes()
            if title not in ONLY_ARCHIVE and not (found == "3.0.5" and title in NAMED_TWICE):
                built.save(str(legacy))
                files[f"{title}.h5"] = legacy.read_bytes()
    files["expected.json"] = json.dumps(expected).encode()
    with tempfile.TemporaryDirectory() as folder:
        for title, data in files.items():
            Path(folder, title).write_bytes(data)
        pack(Path(folder), DATA / f"{name}.tar.xz")
    print(f"{len(expected['models'])} models of {found}")


def import_framework(package: str, version: str | None) -> tuple[Any, Callable[[Any, str], None], str]:
    """Import a framework; return its names, how it writes an archive, and its version."""
    if version and version.startswith("2."):
        return _old_keras_2(version)
    if version:
        sys.path.insert(0, str(HERE / ".keras" / version))
    keras = importlib.import_module(package)
    assert version is None or keras.__version__ == version, keras.__file__
    return keras, lambda built, path: built.save(path), keras.__version__


def _function_with_attributes(func: Any, attributes: Any = None, **options: Any) -> Any:
    import tensorflow as tf

    return tf.function(func, autograph=False)


def _old_keras_2(version: str) -> tuple[Any, Callable[[Any, str], None], str]:
    """Import Keras from before tf-keras into a TensorFlow that is too new for it, with stand-ins for what is gone."""
    import tensorflow as tf

    current = importlib.import_module("tensorflow._api.v2.compat.v2")
    for internal in (tf.__internal__, current.__internal__):
        internal.register_load_context_function = lambda function: None
        internal.function.defun_with_attributes = _function_with_attributes
    inspect.ArgSpec = namedtuple("ArgSpec", "args varargs keywords defaults")  # type: ignore[attr-defined]
    # TensorFlow has imported the installed Keras by now.
    for name in [name for name in sys.modules if name.partition(".")[0] == "keras"]:
        del sys.modules[name]
    root = HERE / ".keras" / version / "keras"
    names = ["keras", "keras.src"] if (root / "src").is_dir() else ["keras"]
    for depth, name in enumerate(names):
        module = types.ModuleType(name)
        module.__path__ = [str(root / "src" if depth else root)]
        module.__version__ = version  # type: ignore[attr-defined]
        sys.modules[name] = module
    prefix = names[-1]
    importlib.import_module(f"{prefix}.distribute")  # first, as in Keras: the modules import each other
    models = importlib.import_module(f"{prefix}.models")
    layers = importlib.import_module(f"{prefix}.layers")
    saving = importlib.import_module(f"{prefix}.saving.saving_lib")
    stand_in = types.SimpleNamespace(__version__=version)
    saving.keras = stand_in
    for name in names:
        sys.modules[name].__version__ = version  # type: ignore[attr-defined]

    def save_archive(built: Any, path: str, **options: Any) -> None:
        Path(path).touch()
        saving.save_model(built, path, **options)

    return types.SimpleNamespace(layers=layers, Model=models.Model, Sequential=models.Sequential), save_archive, version


def main() -> None:
    """Record everything, each writer in its own process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=WRITERS, help="one writer")
    parser.add_argument("--here", action="store_true", help="in this process (used by the script itself)")
    options = parser.parse_args()
    if options.here:
        record(options.only, *WRITERS[options.only])
        return
    settings = {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow", "TF_NUM_INTRAOP_THREADS": "1"}
    for name in [options.only] if options.only else WRITERS:
        command = [sys.executable, __file__, "--only", name, "--here"]
        subprocess.run(command, check=True, env={**os.environ, **settings})


if __name__ == "__main__":
    main()
