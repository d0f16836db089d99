"""Recurrent layers other than the LSTM: random ones for ``build_keras.py``, and every variant once.

Run as a program, it builds every variant in one framework and writes ``NAME.keras`` or ``NAME.h5``, ``NAME.npz`` with
the inputs and the framework's float32 outputs, and a manifest, ``keras.json``::

    KERAS_BACKEND=tensorflow python tests/interop/keras_recurrent.py --directory DIR
    python tests/interop/keras_recurrent.py --package tf_keras --directory DIR
"""

from __future__ import annotations

import argparse
import functools
import importlib
import itertools
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

BATCH, TIME, FEATURES = 4, 6, 3

#: A mask of every kind: none, gaps, both ends, nothing left.
MASK = np.array(
    [[1, 1, 1, 1, 1, 1], [1, 0, 1, 0, 0, 1], [0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]],
    dtype=bool,
)

RECURRENT_THEMES = ("recurrences", "cell_states")


class RecurrentThemes:
    """Themes of random models; the choices and the inputs are those of ``build_keras.Builder``."""

    # What the builder has.
    activation: Any
    any_sequence: Any
    chance: Any
    head: Any
    make: Any
    one_of: Any
    pointwise: Any
    sequence: Any
    size: Any

    def cell(self, kind: str, *, units: int | None = None, **keywords: Any) -> Any:
        """Return a GRU or SimpleRNN layer, or a cell of any kind, with random options."""
        if self.chance(0.4):
            keywords["activation"] = self.activation()
        if "SimpleRNN" not in kind and self.chance(0.4):
            keywords["recurrent_activation"] = self.one_of(("sigmoid", "hard_sigmoid", "tanh", "softsign"))
        if "GRU" in kind:
            keywords["reset_after"] = self.chance(0.5)
        return self.make(
            kind,
            units or self.size(1, 16),
            use_bias=self.chance(0.8),
            dropout=self.one_of((0.0, 0.3)),
            recurrent_dropout=self.one_of((0.0, 0.2)),
            **keywords,
        )

    def any_recurrent(self, kind: str = "", **keywords: Any) -> Any:
        """Return a layer of any kind but the LSTM; the keywords are those of the layer."""
        kind = kind or self.one_of(("GRU", "SimpleRNN", "cell", "cells"))
        if kind in ("GRU", "SimpleRNN"):
            return self.cell(kind, **keywords)
        kinds = ("LSTMCell", "GRUCell", "SimpleRNNCell")
        if kind == "cell":
            return self.make("RNN", self.cell(self.one_of(kinds)), **keywords)
        units = self.size(1, 10)
        cells = [
            self.cell(self.one_of(kinds), units=units if self.chance(0.6) else None) for _ in range(self.size(2, 3))
        ]
        return self.make("RNN", self.make("StackedRNNCells", cells), **keywords)

    def recurrences(self) -> Any:
        """Layers of all kinds over a sequence, which may be masked, one after the other."""
        tensor = self.any_sequence()
        for _ in range(self.size(1, 3)):
            layer = self.any_recurrent(return_sequences=True)
            if self.chance(0.35):
                layer = self.make("Bidirectional", layer, merge_mode=self.one_of(("concat", "sum", "mul", "ave")))
            tensor = layer(tensor)
            if self.chance(0.3):
                tensor = self.pointwise()(tensor)
        backwards, zeroed = self.chance(0.3), self.chance(0.3)
        return [
            tensor,
            self.any_recurrent(return_sequences=True, go_backwards=backwards, zero_output_for_mask=zeroed)(tensor),
            self.head(self.any_recurrent(go_backwards=backwards)(tensor)),
        ]

    def cell_states(self) -> Any:
        """The states of one layer given to another of the same kind, in one direction or in both."""
        kind, units = self.one_of(("GRU", "SimpleRNN")), self.size(1, 10)
        both = self.chance(0.5)

        def made(**keywords: Any) -> Any:
            layer = self.cell(kind, units=units, **keywords)
            return self.make("Bidirectional", layer) if both else layer

        outputs = made(return_sequences=True, return_state=True)(self.any_sequence())
        second = made(return_sequences=self.chance(0.5))(self.sequence(), initial_state=list(outputs[1:]))
        return [*outputs, second]


#: A variant: what its layer is made by, and the sizes of its states, those of a stacked cell of several in a list.
Make = Callable[..., Any]
Sizes = list[Any]


def variants(L: Any) -> dict[str, tuple[Make, Sizes]]:
    """Return every cell and stack of cells by name; ``L`` is the framework's module of layers."""
    return {
        "gru": (lambda **options: L.GRU(4, **options), [4]),
        "gru_reset_before": (lambda **options: L.GRU(4, reset_after=False, **options), [4]),
        "gru_without_bias": (
            lambda **options: L.GRU(4, use_bias=False, recurrent_activation="hard_sigmoid", **options),
            [4],
        ),
        "gru_softmax": (
            lambda **options: L.GRU(4, activation="softmax", recurrent_activation="softmax", **options),
            [4],
        ),
        "simple": (lambda **options: L.SimpleRNN(4, **options), [4]),
        "simple_without_bias": (lambda **options: L.SimpleRNN(4, use_bias=False, activation="relu", **options), [4]),
        "lstm": (lambda **options: L.LSTM(4, **options), [4, 4]),
        "rnn_lstm": (lambda **options: L.RNN(L.LSTMCell(4, recurrent_activation="hard_sigmoid"), **options), [4, 4]),
        "rnn_gru": (lambda **options: L.RNN(L.GRUCell(4), **options), [4]),
        "rnn_simple": (lambda **options: L.RNN(L.SimpleRNNCell(4), **options), [4]),
        "stack_of_lstms": (
            lambda **options: L.RNN([L.LSTMCell(4), L.LSTMCell(4, use_bias=False), L.LSTMCell(5)], **options),
            [[4, 4], [4, 4], [5, 5]],
        ),
        "stack_of_all": (
            lambda **options: L.RNN(
                L.StackedRNNCells(
                    [
                        L.LSTMCell(4),
                        L.GRUCell(5, activation="softsign"),
                        L.GRUCell(4, reset_after=False, use_bias=False),
                        L.SimpleRNNCell(3, activation="relu"),
                    ]
                ),
                **options,
            ),
            [[4, 4], 5, 4, 3],
        ),
        "stack_of_one": (lambda **options: L.RNN(L.StackedRNNCells([L.GRUCell(4)]), **options), [4]),
    }


def cases(keras: Any) -> Iterator[tuple[str, Any, Any, list[np.ndarray]]]:
    """Iterate over (name, inputs, outputs, arrays for the inputs) of every model."""
    L = keras.layers
    random = np.random.default_rng(0)
    x = random.standard_normal((BATCH, TIME, FEATURES)).astype(np.float32)
    masked_x = np.where(MASK[..., None], x, np.float32(0))
    flags = list(itertools.product((False, True), repeat=3))

    def start(masked: bool) -> tuple[Any, Any, np.ndarray]:
        made = L.Input((TIME, FEATURES))
        return (made, L.Masking()(made), masked_x) if masked else (made, made, x)

    def given(sizes: Sizes) -> tuple[Sizes, list[Any], list[np.ndarray]]:
        """Return states as a layer takes them, the inputs in them, and arrays for the inputs."""
        flat = [size for part in sizes for size in (part if isinstance(part, list) else [part])]
        inputs = [L.Input((size,)) for size in flat]
        waiting = iter(inputs)
        nested = [[next(waiting) for _ in part] if isinstance(part, list) else next(waiting) for part in sizes]
        return nested, inputs, [random.standard_normal((BATCH, size)).astype(np.float32) for size in flat]

    for name, (make, sizes) in variants(L).items():
        if name == "stack_of_one":
            # Keras 3 unpacks the state of a stack of one cell, so that it can neither mask, return nor take it.
            made, tensor, array = start(False)
            yield name, made, make(return_sequences=True)(tensor), [array]
            continue
        for masked, (sequences, state, backwards) in itertools.product((False, True), flags):
            for zeroed in (False, True) if masked else (False,):
                options = {"return_sequences": sequences, "return_state": state, "go_backwards": backwards}
                if zeroed:
                    options["zero_output_for_mask"] = True
                told = "_".join(option for option, value in {"masked": masked, **options}.items() if value)
                made, tensor, array = start(masked)
                yield f"{name}-{told}", made, make(**options)(tensor), [array]
        for masked, sequences, state in itertools.product((False, True), repeat=3):
            for mode in ("concat", None) if state else ("sum",):
                made, tensor, array = start(masked)
                layer = L.Bidirectional(make(return_sequences=sequences, return_state=state), merge_mode=mode)
                told = "_".join(
                    option
                    for option, value in {
                        "masked": masked,
                        "return_sequences": sequences,
                        "return_state": state,
                    }.items()
                    if value
                )
                yield f"bidirectional_{name}-{mode}_{told}", made, layer(tensor), [array]
        for masked in (False, True):
            options = {"return_sequences": True, "return_state": True}
            told = "masked_initial_state" if masked else "initial_state"
            made, tensor, array = start(masked)
            nested, inputs, arrays = given(sizes)
            yield f"{name}-{told}", [made, *inputs], make(**options)(tensor, initial_state=nested), [array, *arrays]
            if sizes == [4]:
                made, tensor, array = start(masked)
                nested, inputs, arrays = given(sizes)
                outputs = make(**options)(tensor, initial_state=nested[0])
                yield f"{name}-{told}_alone", [made, *inputs], outputs, [array, *arrays]
            made, tensor, array = start(masked)
            nested, inputs, arrays = given([*sizes, *sizes])
            outputs = L.Bidirectional(make(**options))(tensor, initial_state=nested)
            yield f"bidirectional_{name}-{told}", [made, *inputs], outputs, [array, *arrays]
        for options in (
            {},
            {"go_backwards": True},
            {"go_backwards": True, "return_sequences": True, "zero_output_for_mask": True},
        ):
            made, tensor, array = start(True)
            yield f"{name}-{'_'.join(['unroll', *options])}", made, make(unroll=True, **options)(tensor), [array]
        made = L.Input(batch_shape=(BATCH, TIME, FEATURES))
        yield f"{name}-stateful", made, make(stateful=True, return_sequences=True)(made), [x]
        steps = np.stack([x, masked_x], axis=1)
        for sequences in (False, True):
            made = L.Input((2, TIME, FEATURES))
            layer = make(return_sequences=sequences)
            yield f"time_distributed_{name}-{sequences}", made, L.TimeDistributed(layer)(made), [steps]
        made = L.Input((2, TIME, FEATURES))
        layer = L.Bidirectional(make(return_sequences=True))
        yield f"time_distributed_bidirectional_{name}", made, L.TimeDistributed(layer)(made), [steps]
    # Two layers of different kinds, and the first one backwards.
    options = {"return_sequences": True, "return_state": True}
    pairs = {
        "gru_and_simple": (L.GRU(4, **options), L.SimpleRNN(5, go_backwards=True, **options)),
        "lstm_and_rnn": (L.LSTM(4, **options), L.RNN([L.LSTMCell(4), L.GRUCell(3)], go_backwards=True, **options)),
        "backwards_first": (L.GRU(4, go_backwards=True, **options), L.GRU(4, **options)),
    }
    for name, (forward, backward) in pairs.items():
        made, tensor, array = start(True)
        yield f"bidirectional-{name}", made, L.Bidirectional(forward, backward_layer=backward)(tensor), [array]
    if keras.__name__ == "tf_keras":
        yield from time_major_cases(L)


def time_major_cases(L: Any) -> Iterator[tuple[str, Any, Any, list[np.ndarray]]]:
    """Iterate over the same of models with ``time_major=True``, which Keras 2 alone has."""
    random = np.random.default_rng(2)
    x = random.standard_normal((TIME, BATCH, FEATURES)).astype(np.float32)
    masked_x = np.where(MASK.T[..., None], x, np.float32(0))
    tokens = np.where(MASK.T, random.integers(1, 9, MASK.T.shape), 0).astype(np.int32)

    def start(masked: bool, shape: tuple[int | None, ...] = (None, None)) -> tuple[Any, Any, np.ndarray]:
        made = L.Input(batch_shape=(*shape, FEATURES))
        return (made, L.Masking()(made), masked_x) if masked else (made, made, x)

    for name, (plain, sizes) in variants(L).items():
        make = functools.partial(plain, time_major=True)
        prefix = f"time_major_{name}"
        if name not in ("gru", "lstm", "rnn_gru", "simple", "stack_of_all"):
            continue
        for masked, sequences, backwards in itertools.product((False, True), repeat=3):
            options = {"return_sequences": sequences, "go_backwards": backwards}
            told = "_".join(option for option, value in {"masked": masked, **options}.items() if value)
            made, tensor, array = start(masked)
            yield f"{prefix}-{told}", made, make(return_state=True, **options)(tensor), [array]
        for sequences in (False, True):
            made, tensor, array = start(True)
            layer = L.Bidirectional(make(return_sequences=sequences, return_state=True))
            yield f"bidirectional_{prefix}-{sequences}", made, layer(tensor), [array]
        for unroll in (False, True):
            options = {"go_backwards": True, "return_sequences": True, "zero_output_for_mask": True}
            made, tensor, array = start(True, (TIME, BATCH))
            yield f"{prefix}-zeroed_{unroll}", made, make(unroll=unroll, **options)(tensor), [array]
        made, tensor, array = start(True, (TIME, BATCH))
        yield f"{prefix}-stateful", made, make(stateful=True, return_sequences=True)(tensor), [array]
        if name != "stack_of_all":
            made, tensor, array = start(True)
            inputs = [L.Input((size,)) for size in sizes]
            arrays = [random.standard_normal((BATCH, size)).astype(np.float32) for size in sizes]
            outputs = make(return_sequences=True)(tensor, initial_state=inputs)
            yield f"{prefix}-initial_state", [made, *inputs], outputs, [array, *arrays]
        # In a TimeDistributed the rows and the steps together are its time.
        made = L.Input((2, BATCH, FEATURES))
        layer = make(return_sequences=True)
        layer = L.Bidirectional(layer) if name == "gru" else layer
        yield f"time_distributed_{prefix}", made, L.TimeDistributed(layer)(made), [masked_x.reshape(3, 2, BATCH, -1)]
        # An encoder whose states begin a decoder over sequences that have the batch in front.
        made, tensor, array = start(True)
        after = L.Input((None, FEATURES))
        decoded = plain(return_sequences=True)(after, initial_state=make(return_state=True)(tensor)[1:])
        steps = random.standard_normal((BATCH, 3, FEATURES)).astype(np.float32)
        yield f"{prefix}-encoder", [made, after], L.Dense(2)(decoded), [array, steps]
    # Layers that know nothing of it, around it; the last two take the batch for the time, or its axis for another.
    mixed: dict[str, Callable[[Any], Any]] = {
        "stack": lambda y: L.GRU(3, time_major=True)(L.LayerNormalization()(L.Dense(5)(y))),
        "time_distributed": L.TimeDistributed(L.Dense(2)),
        "both_ways": L.LSTM(3, return_sequences=True),
        "pooled": L.GlobalMaxPooling1D(),
    }
    for name, then in mixed.items():
        made = L.Input(batch_shape=(None, None))
        tensor = L.Embedding(9, FEATURES, mask_zero=name != "pooled")(made)
        yield f"time_major-{name}", made, then(L.LSTM(4, return_sequences=True, time_major=True)(tensor)), [tokens]


def randomised(model: Any) -> None:
    """Give a model distinct random weights."""
    random = np.random.default_rng(1)
    model.set_weights(
        [
            random.uniform(-0.8, 0.8, weight.shape).astype(np.float32) if weight.dtype.kind == "f" else weight
            for weight in model.get_weights()
        ]
    )


def flat(outputs: Any) -> list[np.ndarray]:
    """Return outputs in lists as arrays."""
    if isinstance(outputs, list | tuple):
        return [array for part in outputs for array in flat(part)]
    return [np.asarray(outputs)]


def write(keras: Any, directory: Path, chosen: Callable[[str], bool] = lambda name: True) -> list[dict[str, Any]]:
    """Write the variants of these names, in either format by turns; return the manifest's entries."""
    entries: list[dict[str, Any]] = []
    for name, inputs, outputs, arrays in cases(keras):
        if not chosen(name):
            continue
        model = keras.Model(inputs, outputs)
        randomised(model)
        found = flat(model(arrays if len(arrays) > 1 else arrays[0], training=False))
        file = f"{name}.{('keras', 'h5')[len(entries) % 2]}"
        model.save(directory / file)
        recorded = {f"input_{place}": array for place, array in enumerate(arrays)}
        recorded |= {f"output_{place}": array for place, array in enumerate(found)}
        np.savez_compressed(directory / f"{name}.npz", **recorded)
        entries.append({"name": name, "file": file})
    return entries


def framework(package: str) -> Any:
    """Import a framework, quiet and on one thread."""
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.simplefilter("ignore")
    logging.getLogger("absl").setLevel(logging.ERROR)  # "HDF5 is considered legacy", for every file
    return importlib.import_module(package)


def main() -> None:
    """Write every variant."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--package", choices=("keras", "tf_keras"), default="keras")
    arguments = parser.parse_args()
    keras = framework(arguments.package)
    entries = write(keras, arguments.directory)
    record = {"package": arguments.package, "version": keras.__version__, "models": entries}
    (arguments.directory / "keras.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"{len(entries)} models of {arguments.package} {keras.__version__}")


if __name__ == "__main__":
    main()
