"""LiteRT (TensorFlow Lite): the fused LSTM operator for sequences, a step's plain graph on XNNPACK for streams."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bench.cells import Cell
from bench.contender import Array, Contender, Outputs

from .tensorflow_threads import tensorflow

__all__ = ["contenders"]


def contenders(cell: Cell) -> tuple[type[Contender], ...] | str:
    """Return the one way, or why there is none."""
    if cell.compute_type == "bfloat16":
        return "no bfloat16"
    if cell.ragged:
        return "no lengths in the fused operator"
    if cell.bidirectional:
        return "not timed: its converter takes half a minute for both directions"
    return (LiteRtStep,) if cell.streaming else (LiteRtSequence,)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the converter, which writes past Python, from writing into the table."""
    with open(os.devnull, "wb") as nowhere, contextlib.redirect_stdout(io.StringIO()):  # noqa: PTH123
        before = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(before, 2)
            os.close(before)


class _LiteRt(Contender):
    engine = "litert"

    def __init__(self, cell: Cell) -> None:
        super().__init__(cell)
        tf = tensorflow(cell.threads)
        with _silence():
            converter = self._converter(tf)
            if cell.compute_type == "int8":
                # Weights in int8, activations quantized at each call: what it calls dynamic range quantization.
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
            model = converter.convert()
            from ai_edge_litert.interpreter import Interpreter

            self._interpreter: Any = Interpreter(model_content=model, num_threads=cell.threads)
            self._interpreter.allocate_tensors()

    def _converter(self, tf: Any) -> Any:
        raise NotImplementedError


class LiteRtSequence(_LiteRt):
    """The fused operator, which keeps its state between calls and so has to be reset."""

    variant = "fused operator"

    def __init__(self, cell: Cell) -> None:
        super().__init__(cell)
        self._x = np.zeros((cell.batch, cell.time, cell.features), np.float32)
        (taken,), (given,) = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        self._places = taken["index"], given["index"]

    def _converter(self, tf: Any) -> Any:
        # The converter knows the LSTM of Keras 2 and fuses it; that of Keras 3 becomes a loop of small operators.
        import tf_keras as keras

        cell = self.cell
        inputs = keras.Input(batch_shape=(cell.batch, cell.time, cell.features))
        y, layers = inputs, []
        for _ in range(cell.layers):
            layer = keras.layers.LSTM(cell.hidden, return_sequences=True)
            layers.append(keras.layers.Bidirectional(layer) if cell.bidirectional else layer)
            y = layers[-1](y)
        for layer, cells in zip(layers, cell.weights().cells, strict=True):
            layer.set_weights([array for own in cells for array in (own.kernel, own.recurrent_kernel, own.bias)])
        return tf.lite.TFLiteConverter.from_keras_model(keras.Model(inputs, y))

    @property
    def statement(self) -> str:
        return "reset(); give(taken, x); invoke(); y = get(given)"

    @property
    def names(self) -> Mapping[str, object]:
        runs = self._interpreter
        return {
            "reset": runs.reset_all_variables,
            "give": runs.set_tensor,
            "invoke": runs.invoke,
            "get": runs.get_tensor,
            "x": self._x,
            "taken": self._places[0],
            "given": self._places[1],
        }

    def feed(self, x: Array) -> None:
        self._x[...] = x

    def reset(self) -> None:
        pass  # each call begins with it

    def advance(self) -> Outputs:
        self._interpreter.reset_all_variables()
        self._interpreter.set_tensor(self._places[0], self._x)
        self._interpreter.invoke()
        return Outputs(self._interpreter.get_tensor(self._places[1]))


class LiteRtStep(_LiteRt):
    """One step as a graph of plain operators, all of which XNNPACK takes; states go in and come out."""

    variant = "step on XNNPACK"

    def __init__(self, cell: Cell) -> None:
        super().__init__(cell)
        runner = self._interpreter.get_signature_runner()
        taken = {name: one["index"] for name, one in runner.get_input_details().items()}
        given = {name: one["index"] for name, one in runner.get_output_details().items()}
        names = [f"{letter}{layer}" for layer in range(cell.layers) for letter in "hc"]
        self._taken, self._given = [taken[name] for name in ("x", *names)], [given[name] for name in ("y", *names)]
        self._x = np.zeros((cell.batch, cell.features), np.float32)
        self.reset()

    def _converter(self, tf: Any) -> Any:
        cell = self.cell
        panels = [
            (tf.constant(np.concatenate([own.kernel, own.recurrent_kernel])), tf.constant(own.bias))
            for (own,) in cell.weights().cells
        ]
        dense = [tf.constant(array) for array in cell.dense_weights()] if cell.dense else None

        def step(x: Any, **states: Any) -> dict[str, Any]:
            results = {}
            y = x
            for layer, (panel, bias) in enumerate(panels):
                gates = tf.concat([y, states[f"h{layer}"]], 1) @ panel + bias
                i, f, g, o = tf.split(gates, 4, 1)
                c = tf.sigmoid(f) * states[f"c{layer}"] + tf.sigmoid(i) * tf.tanh(g)
                y = tf.sigmoid(o) * tf.tanh(c)
                results |= {f"h{layer}": y, f"c{layer}": c}
            return results | {"y": y if dense is None else y @ dense[0] + dense[1]}

        def given(size: int, name: str) -> Any:
            return tf.TensorSpec((cell.batch, size), tf.float32, name)

        states = {
            f"{letter}{layer}": given(cell.hidden, f"{letter}{layer}")
            for layer in range(cell.layers)
            for letter in "hc"
        }
        function = tf.function(step).get_concrete_function(given(cell.features, "x"), **states)
        module = tf.Module()
        return tf.lite.TFLiteConverter.from_concrete_functions([function], module)

    @property
    def statement(self) -> str:
        states = range(1, len(self._taken))
        calls = ["give(t0, x)", *(f"give(t{n}, s{n})" for n in states), "invoke()", "y = get(g0)"]
        return "; ".join([*calls, *(f"s{n} = get(g{n})" for n in states)])

    @property
    def names(self) -> Mapping[str, object]:
        runs = self._interpreter
        names: dict[str, object] = {
            "give": runs.set_tensor,
            "invoke": runs.invoke,
            "get": runs.get_tensor,
            "x": self._x,
        }
        for n, (taken, given) in enumerate(zip(self._taken, self._given, strict=True)):
            names |= {f"t{n}": taken, f"g{n}": given}
        return names | {f"s{n}": state for n, state in enumerate(self._states, start=1)}

    def feed(self, x: Array) -> None:
        self._x[...] = x[:, 0]

    def reset(self) -> None:
        self._states = [np.zeros((self.cell.batch, self.cell.hidden), np.float32) for _ in self._taken[1:]]

    def advance(self) -> Outputs:
        for place, array in zip(self._taken, [self._x, *self._states], strict=True):
            self._interpreter.set_tensor(place, array)
        self._interpreter.invoke()
        y, *self._states = [self._interpreter.get_tensor(place) for place in self._given]
        return Outputs(y[:, None], np.stack(self._states[0::2]), np.stack(self._states[1::2]))
