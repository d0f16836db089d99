"""What older releases wrote in other words: configurations of Keras 1, and weights of Keras 1 and of CuDNN layers.

Keras 1 called units ``output_dim`` and recurrent_activation ``inner_activation``, and saved a kernel for each gate. The
CuDNN layers of Keras 2 saved each gate's kernel as CuDNN reads it, transposed, and a bias for either product. Both
become what Keras has written since.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from .keras_layers import KerasLayer, shown

__all__ = ["CUDNN", "GATE_WEIGHTS", "join_gates", "of_today", "of_today_kernel", "unfold_cudnn"]

#: Options of Keras 1 by the name that they have had since; None for those without a meaning at inference.
_OPTIONS: Final[dict[str, str | None]] = {
    "W_constraint": None,
    "W_regularizer": None,
    "U_regularizer": None,
    "atrous_rate": "dilation_rate",
    "b_constraint": None,
    "b_regularizer": None,
    "bias": "use_bias",
    "border_mode": "padding",
    "consume_less": None,
    "dropout_U": "recurrent_dropout",
    "dropout_W": "dropout",
    "filter_length": "kernel_size",
    "forget_bias_init": None,
    "init": None,
    "inner_activation": "recurrent_activation",
    "inner_init": None,
    "input_dim": None,
    "input_length": None,
    "input_dtype": "dtype",
    "length": "size",
    "nb_filter": "filters",
    "output_dim": "units",
    "p": "rate",
    "pool_length": "pool_size",
    "sigma": "stddev",
    "stride": "strides",
    "subsample_length": "strides",
}

#: Options that a layer of Keras 1 had under the same name, or whose name means something else in it.
_KEPT: Final[dict[str, dict[str, str | None]]] = {
    "Embedding": {"input_dim": "input_dim", "output_dim": "output_dim", "dropout": None},
    "ZeroPadding1D": {"length": "length"},
}

_CLASSES: Final = {"AtrousConvolution1D": "Conv1D", "Convolution1D": "Conv1D"}

#: Layers that have taken the place of Merge, by its mode.
_MERGES: Final = {"ave": "Average", "concat": "Concatenate", "max": "Maximum", "mul": "Multiply", "sum": "Add"}

#: Layers that computed on CuDNN alone, each with what took its place and what it could not be told.
CUDNN: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "CuDNNGRU": ("GRU", {"activation": "tanh", "recurrent_activation": "sigmoid", "reset_after": True}),
    "CuDNNLSTM": ("LSTM", {"activation": "tanh", "recurrent_activation": "sigmoid"}),
}

#: Gates in the order of Keras 1's twelve or nine arrays, and in the order of today's kernels.
_GATES: Final = {"GRU": ("zrh", "zrh"), "LSTM": ("icfo", "ifco")}

#: The arrays that Keras 1 saved for a recurrent layer, in order.
GATE_WEIGHTS: Final = {
    kind: tuple(f"{array}_{gate}" for gate in gates for array in "WUb") for kind, (gates, _) in _GATES.items()
}


# --- Configurations ---------------------------------------------------------------------------------------------------


def of_today(entry: Any, version: str) -> Any:
    """Return the configuration of a layer or model, and of all that it holds, as Keras writes it since version 2.

    Parameters
    ----------
    entry
        The configuration; whatever it is, for only what is known is renamed.
    version
        Of the Keras that wrote it.
    """
    if not isinstance(entry, dict) or not isinstance(entry.get("class_name"), str):
        return entry
    kind, config = entry["class_name"], entry.get("config")
    if isinstance(config, list):
        return {**entry, "config": [of_today(part, version) for part in config]}
    if not isinstance(config, dict):
        return entry
    config = {
        key: of_today(value, version) if key in ("layer", "backward_layer") else value for key, value in config.items()
    }
    if isinstance(config.get("layers"), list):
        config["layers"] = [of_today(part, version) for part in config["layers"]]
    return (
        {**entry, **_since_keras_2(kind, config)} if version.partition(".")[0] == "1" else {**entry, "config": config}
    )


def _since_keras_2(kind: str, config: dict[str, Any]) -> dict[str, Any]:
    """Return class_name and config of a layer of Keras 1 in today's words."""
    if kind == "Merge" and config.get("mode") in _MERGES and "layers" not in config:
        today = _MERGES[config["mode"]]
        axis = {"axis": config.get("concat_axis", -1)} if today == "Concatenate" else {}
        return {"class_name": today, "config": {"name": config.get("name"), "trainable": True, **axis}}
    if kind == "BatchNormalization" and config.get("mode") == 0:
        # Any other mode normalizes by what is at hand, and stays to be refused.
        del config["mode"]
    names = _OPTIONS | _KEPT.get(kind, {})
    renamed = {names.get(key, key): value for key, value in config.items()}
    renamed.pop(None, None)
    return {"class_name": _CLASSES.get(kind, kind), "config": renamed}


# --- Weights ----------------------------------------------------------------------------------------------------------


def join_gates(layer: KerasLayer) -> None:
    """Put the kernels that Keras 1 saved gate by gate side by side; arrays that do not fit together are left alone."""
    _, gates = _GATES[layer.class_name]
    for letter, name in (("W", "kernel"), ("U", "recurrent_kernel"), ("b", "bias")):
        arrays = [layer.weights.pop(f"{letter}_{gate}") for gate in gates]
        sources = [layer.sources.pop(f"{letter}_{gate}") for gate in gates]
        fits = len({(array.shape, array.dtype) for array in arrays}) == 1 and arrays[0].ndim == (
            1 if letter == "b" else 2
        )
        # The check of the shapes names what it finds where they do not fit: the first gate alone is too small.
        layer.weights[name] = _frozen(np.concatenate(arrays, axis=-1)) if fits else arrays[0]
        layer.sources[name] = ", ".join(sources)


def of_today_kernel(layer: KerasLayer, *, by_theano: bool) -> str | None:
    """Bring the kernel of a convolution into the layout that all have had since Keras 2, in which it is correlated.

    Parameters
    ----------
    layer
        Any layer.
    by_theano
        Whether Keras ran on Theano, which convolves: its kernels are the other way round along time.

    Returns
    -------
    str or None
        What is wrong, if that cannot be done.
    """
    kernel = layer.weights.get("kernel")
    if layer.class_name == "Conv1D" and kernel is not None:
        if kernel.ndim == 4:
            # Keras 1: (size, 1, channels, filters); before 1.1 (filters, channels, size, 1).
            size, filters = layer.config.get("kernel_size"), layer.config.get("filters")
            early = kernel.shape[:2] != (size, 1) or kernel.shape[3] != filters
            kernel = (kernel.transpose(2, 3, 1, 0) if early else kernel)[:, 0]
        layer.weights["kernel"] = _frozen(np.array(kernel[::-1] if by_theano else kernel, order="C"))
    elif by_theano and layer.class_name in ("DepthwiseConv1D", "SeparableConv1D"):
        return f"layer {shown(layer.name)} ({layer.class_name}) was saved by Keras on Theano; expected TensorFlow"
    return None


def unfold_cudnn(layer: KerasLayer) -> None:
    """Bring the weights of an LSTM or GRU that were saved by a CuDNN layer into the layout of all others.

    A CuDNN layer has a bias for the input's product and one for the recurrent one, one behind the other, and saves each
    gate's kernels transposed. Weights of any other layer are left alone.
    """
    if layer.class_name not in _GATES or not {"kernel", "recurrent_kernel", "bias"} <= layer.weights.keys():
        return
    kernel, recurrent, bias = (layer.weights[name] for name in ("kernel", "recurrent_kernel", "bias"))
    gates = len(_GATES[layer.class_name][1])
    units = recurrent.shape[0] if recurrent.ndim == 2 else 0
    wide = (gates * units,)
    if bias.shape != (2 * gates * units,) or kernel.shape[1:] != wide or recurrent.shape[1:] != wide or not units:
        return
    # (features, units) of a gate are the numbers of (units, features), row by row.
    features = kernel.shape[0]
    parts = [part.reshape(units, features).T for part in np.split(kernel, gates, axis=1)]
    layer.weights["kernel"] = _frozen(np.concatenate(parts, axis=1))
    layer.weights["recurrent_kernel"] = _frozen(
        np.concatenate([part.T for part in np.split(recurrent, gates, axis=1)], axis=1)
    )
    both = bias.reshape(2, -1)
    # An LSTM adds both; a GRU multiplies the recurrent part by its reset gate.
    layer.weights["bias"] = _frozen(both[0] + both[1] if layer.class_name == "LSTM" else both.copy())


def _frozen(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    array.setflags(write=False)
    return array
