"""Export models with the real exporters and record what the frameworks say: ``NAME.onnx`` and ``NAME.npz``.

    python tests/interop/build_onnx.py --directory /tmp/onnx --writer torch-old

Writers: ``torch-old`` and ``torch-new`` (the two exporters of torch.onnx), ``tf2onnx``, ``keras-tensorflow`` and
``keras-torch`` (keras.Model.export on two backends); ``tf2onnx-loops`` and ``keras-tensorflow-loops`` export what
becomes a Loop there. The arrays of a file are ``RUN_input_N`` and ``RUN_output_N``;
where the framework computes in float64 too, that is ``RUN_oracle_N``. Runs have other batches and times where those
are open.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

WRITERS = (
    "torch-old",
    "torch-new",
    "tf2onnx",
    "keras-tensorflow",
    "keras-torch",
    "tf2onnx-loops",
    "keras-tensorflow-loops",
)

#: Batch and time of each run; models of a fixed time take the first time alone.
RUNS = ((2, 7), (3, 12))


def save(path: Path, arrays: dict[str, Any]) -> None:
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def has_open_time(path: Path, axes: list[dict[int, str]]) -> bool:
    """Return whether the axes of a file that are called time or steps are open."""
    import onnx

    inputs = onnx.load(str(path)).graph.input
    opened = [
        value.type.tensor_type.shape.dim[place].dim_param
        for value, named in zip(inputs, axes, strict=True)
        for place, axis in named.items()
        if axis in ("time", "steps")
    ]
    return bool(opened) and all(opened)


# --- PyTorch ----------------------------------------------------------------------------------------------------------


def build_torch(directory: Path, new: bool) -> None:
    """Export PyTorch modules."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    torch.manual_seed(5)

    class Classifier(nn.Module):
        def __init__(self, bidirectional: bool, layers: int) -> None:
            super().__init__()
            self.embed = nn.Embedding(30, 5)
            self.lstm = nn.LSTM(5, 6, layers, batch_first=True, bidirectional=bidirectional)
            self.head = nn.Linear(12 if bidirectional else 6, 4)

        def forward(self, x: Any) -> Any:
            y, _ = self.lstm(self.embed(x))
            return torch.softmax(self.head(y[:, -1]), -1)

    class Stateful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 6, 2)
            self.head = nn.Linear(6, 3)

        def forward(self, x: Any, h: Any, c: Any) -> Any:
            y, (h, c) = self.lstm(x, (h, c))
            return torch.log_softmax(self.head(y), -1), h, c

    class EncoderDecoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.LSTM(4, 6, batch_first=True)
            self.decoder = nn.LSTM(3, 6, batch_first=True)
            self.head = nn.Linear(6, 3)

        def forward(self, x: Any, z: Any) -> Any:
            _, state = self.encoder(x)
            y, _ = self.decoder(z, state)
            return self.head(y)

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(4, 8, 3, padding=1)
            self.batch_norm = nn.BatchNorm1d(8)
            self.gru = nn.GRU(8, 5, batch_first=True, bidirectional=True)
            self.rnn = nn.RNN(10, 4, batch_first=True, nonlinearity="relu")
            self.layer_norm = nn.LayerNorm(4)
            self.dropout = nn.Dropout(0.3)
            self.head = nn.Linear(4, 2)

        def forward(self, x: Any) -> Any:
            x = torch.relu(self.batch_norm(self.conv(x.transpose(1, 2)))).transpose(1, 2)
            y, _ = self.gru(x)
            y, h = self.rnn(y)
            return self.head(self.dropout(self.layer_norm(y.mean(1) + y.max(1).values))), h.squeeze(0).argmax(-1)

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 6, batch_first=True)
            self.score = nn.Linear(6, 1)
            self.head = nn.Linear(6, 2)

        def forward(self, x: Any) -> Any:
            y, _ = self.lstm(x)
            weights = torch.softmax(self.score(torch.tanh(y)), 1)
            return torch.sigmoid(self.head((weights * y).sum(1))), nn.functional.gelu(y)

    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 6, batch_first=True, bidirectional=True)
            self.head = nn.Linear(6, 2)

        def forward(self, x: Any, lengths: Any) -> Any:
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            y, (h, _) = self.lstm(packed)
            y, _ = nn.utils.rnn.pad_packed_sequence(y, batch_first=True)
            return self.head(h[-1]), y

    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.LSTMCell(4, 6)

        def forward(self, x: Any, h: Any, c: Any) -> Any:
            return self.cell(x, (h, c))

    def tokens(batch: int, time: int) -> Any:
        return torch.randint(0, 30, (batch, time))

    both, batch_only = {0: "batch", 1: "time"}, {0: "batch"}
    # The new exporter writes the traced number of steps into some graphs, whatever it is told about the axis.
    both_or_batch = batch_only if new else both
    # name: module, inputs for (batch, time), names, open axes
    models: dict[str, tuple[nn.Module, Callable[[int, int], tuple[Any, ...]], list[str], list[dict[int, str]]]] = {
        "classifier": (Classifier(False, 2), lambda b, t: (tokens(b, t),), ["x"], [both]),
        "bidirectional": (Classifier(True, 1), lambda b, t: (tokens(b, t),), ["x"], [both]),
        "stateful": (
            Stateful(),
            lambda b, t: (torch.randn(t, b, 4), torch.randn(2, b, 6), torch.randn(2, b, 6)),
            ["x", "h", "c"],
            [{1: "batch"} if new else {0: "time", 1: "batch"}, {1: "batch"}, {1: "batch"}],
        ),
        "encoder_decoder": (
            EncoderDecoder(),
            lambda b, t: (torch.randn(b, t, 4), torch.randn(b, t - 2, 3)),
            ["x", "z"],
            [both, {0: "batch", 1: "steps"}],
        ),
        "mixed": (Mixed(), lambda b, t: (torch.randn(b, t, 4),), ["x"], [both_or_batch]),
        "attention": (Attention(), lambda b, t: (torch.randn(b, t, 4),), ["x"], [both]),
        "cell": (
            Cell(),
            lambda b, t: (torch.randn(b, 4), torch.randn(b, 6), torch.randn(b, 6)),
            ["x", "h", "c"],
            [batch_only] * 3,
        ),
    }
    if not new:  # torch.export cannot trace packed sequences
        lengths = {2: [7, 3], 3: [5, 12, 1]}
        models["packed"] = (
            Packed(),
            lambda b, t: (torch.randn(b, t, 4), torch.tensor(lengths[b])),
            ["x", "lengths"],
            [both, batch_only],
        )
    for name, (module, make, names, axes) in models.items():
        module.eval()
        path = directory / f"{'torch_new' if new else 'torch_old'}_{name}.onnx"
        if new:
            # AUTO: what the exporter cannot leave open it fixes.
            shapes = tuple(dict.fromkeys(named, torch.export.Dim.AUTO) for named in axes)
            torch.onnx.export(
                module, make(*RUNS[0]), str(path), input_names=names, dynamo=True, dynamic_shapes=shapes,
                external_data=False, verbose=False,
            )  # fmt: skip
        else:
            torch.onnx.export(
                module, make(*RUNS[0]), str(path), input_names=names, dynamo=False,
                dynamic_axes=dict(zip(names, axes, strict=True)),
            )  # fmt: skip
        time_is_open = has_open_time(path, axes)
        runs = [make(batch, time if time_is_open else RUNS[0][1]) for batch, time in RUNS]
        arrays: dict[str, Any] = {}
        with torch.no_grad():
            outputs = [module(*run) for run in runs]
            module.double()
            oracles = [module(*(x.double() if x.is_floating_point() else x for x in run)) for run in runs]
        for number, run in enumerate(runs):
            for kind, values in (("input", run), ("output", outputs[number]), ("oracle", oracles[number])):
                listed = values if isinstance(values, tuple) else (values,)
                arrays.update({f"{number}_{kind}_{place}": value.numpy() for place, value in enumerate(listed)})
        save(path.with_suffix(".npz"), arrays)


# --- Keras ------------------------------------------------------------------------------------------------------------


def build_keras(directory: Path, writer: str) -> None:
    """Export Keras models."""
    os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="")
    os.environ["KERAS_BACKEND"] = "torch" if writer == "keras-torch" else "tensorflow"
    import keras

    keras.utils.set_random_seed(7)
    layers, length = keras.layers, None
    if writer == "keras-torch":
        length = RUNS[0][1]  # Keras traces a loop over the steps there
        import torch

        torch.set_num_threads(1)

    def chain(*parts: Any) -> Any:
        return keras.Sequential(list(parts))

    def encoder_decoder() -> Any:
        x, z = layers.Input((length, 4)), layers.Input((length, 3))
        _, *state = layers.LSTM(6, return_state=True)(x)
        y, *state = layers.LSTM(6, return_sequences=True, return_state=True)(z, initial_state=state)
        return keras.Model([x, z], [layers.Dense(3, activation="softmax")(y), *state])

    models = (
        loops(keras)
        if writer.endswith("-loops")
        else {
            "classifier": chain(
                layers.Input((length,), dtype="int32"),
                layers.Embedding(30, 5),
                layers.LSTM(6),
                layers.Dense(4, activation="softmax"),
            ),
            "bidirectional": chain(
                layers.Input((length, 4)),
                layers.Bidirectional(layers.LSTM(6, return_sequences=True, bias_initializer="uniform")),
                layers.LSTM(5),
                layers.Dense(2, activation="sigmoid"),
            ),
            "mixed": chain(
                layers.Input((length, 4)),
                layers.Conv1D(8, 3, padding="same", activation="relu"),
                layers.MaxPooling1D(2),
                layers.BatchNormalization(),
                layers.LSTM(6, return_sequences=True),
                layers.LayerNormalization(),
                layers.Dropout(0.2),
                layers.GlobalAveragePooling1D(),
                layers.Dense(3, activation="tanh"),
            ),
            "tagger": chain(
                layers.Input((length, 4)),
                layers.LSTM(6, return_sequences=True, go_backwards=True, use_bias=False),
                layers.Dense(3, activation="softmax"),
            ),
            "encoder_decoder": encoder_decoder(),
        }
    )
    if writer == "keras-torch":
        del models["mixed"]  # its pooling has a window that the exporter takes for open
        models["gru"] = chain(
            layers.Input((length, 4)),
            layers.GRU(6, return_sequences=True),
            layers.SimpleRNN(4),
            layers.Dense(2, activation="relu"),
        )
    random = np.random.default_rng(3)
    for name, model in models.items():
        runs = []
        for batch, time in RUNS:
            shapes = [(batch, length or time, *tensor.shape[2:]) for tensor in model.inputs]
            runs.append(
                [
                    random.integers(1, 30, shape).astype(np.int32)
                    if "int" in keras.backend.standardize_dtype(tensor.dtype)
                    else random.standard_normal(shape).astype(np.float32)
                    for tensor, shape in zip(model.inputs, shapes, strict=True)
                ]
            )
        if writer.endswith("-loops"):
            for (x,) in runs:  # a step in the middle and some at the end that masks hide
                x[:, 2] = 0
                x[-1, 5:] = 0
        arrays: dict[str, Any] = {}
        for number, run in enumerate(runs):
            outputs = model.predict(run if len(run) > 1 else run[0], verbose=0)
            listed = outputs if isinstance(outputs, list) else [outputs]
            arrays.update({f"{number}_input_{place}": value for place, value in enumerate(run)})
            arrays.update({f"{number}_output_{place}": value for place, value in enumerate(listed)})
        path = directory / f"{writer.replace('-', '_')}_{name}.onnx"
        if writer.startswith("tf2onnx"):
            export_with_tf2onnx(model, path, OPSETS.get(name))
        else:
            model.export(str(path), format="onnx", verbose=False)
        save(path.with_suffix(".npz"), arrays)


#: Versions of the operators that tf2onnx is asked for; else its own choice.
OPSETS = {"gru": 10, "masked": 11, "hard_gates": 13, "bidirectional_masked": 16, "masked_embedding": 18}


def loops(keras: Any) -> dict[str, Any]:
    """Return models of which the exporters of TensorFlow write a layer or more as a Loop."""
    layers = keras.layers

    def chain(*parts: Any) -> Any:
        return keras.Sequential([layers.Input((None, 4)), *parts])

    x = layers.Input((None, 4))
    _, *state = layers.LSTM(5, return_state=True)(layers.Masking()(x))
    carried = layers.LSTM(5, return_sequences=True)(layers.Masking()(x), initial_state=state)
    return {
        "masked": chain(layers.Masking(), layers.LSTM(6, return_sequences=True), layers.LSTM(3), layers.Dense(2)),
        "masked_embedding": keras.Sequential(
            [
                layers.Input((None,), dtype="int32"),
                layers.Embedding(30, 5, mask_zero=True),
                layers.LSTM(6, bias_initializer="uniform"),
                layers.Dense(4, activation="softmax"),
            ]
        ),
        "masked_states": keras.Model(x, [carried, *state]),
        "bidirectional_masked": chain(
            layers.Masking(), layers.Bidirectional(layers.LSTM(4, return_sequences=True)), layers.LSTM(3)
        ),
        "gru": chain(layers.GRU(6, return_sequences=True), layers.GRU(4, reset_after=False, go_backwards=True)),
        "simple_rnn": chain(layers.SimpleRNN(6, return_sequences=True), layers.Masking(), layers.SimpleRNN(3)),
        "hard_gates": chain(layers.LSTM(6, recurrent_activation="hard_sigmoid", return_sequences=True), layers.LSTM(3)),
        "cells": chain(layers.RNN(layers.StackedRNNCells([layers.LSTMCell(4), layers.GRUCell(3)]))),
    }


def export_with_tf2onnx(model: Any, path: Path, opset: int | None = None) -> None:
    """Export a Keras model by way of a TensorFlow function."""
    import tensorflow as tf
    import tf2onnx

    signature = [tf.TensorSpec(tensor.shape, tensor.dtype, name=tensor.name) for tensor in model.inputs]

    @tf.function(input_signature=signature)  # type: ignore[misc]
    def function(*inputs: Any) -> Any:
        return model(list(inputs) if len(inputs) > 1 else inputs[0], training=False)

    tf2onnx.convert.from_function(function, input_signature=signature, opset=opset, output_path=str(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--writer", choices=WRITERS, required=True)
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    if options.writer.startswith("torch"):
        build_torch(options.directory, options.writer == "torch-new")
    else:
        build_keras(options.directory, options.writer)


if __name__ == "__main__":
    sys.exit(main())
