"""PyTorch: eager, compiled, dynamically quantized, and in bfloat16, always in inference mode."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from bench.cells import Cell
from bench.contender import Array, Contender, Outputs

__all__ = ["contenders"]


def contenders(cell: Cell) -> tuple[type[Contender], ...] | str:
    """Return the ways that are worth timing on a cell."""
    if not cell.streaming or cell.bidirectional:
        # torch.compile leaves nn.LSTM as it is: it breaks its graph there (torch._dynamo.config.allow_rnn).
        return (Torch,)
    # Compiling takes seconds for each shape; done where one cell is all there is.
    compiled = cell.compute_type == "float32" and cell.layers == cell.threads == 1 and not cell.cold
    return (Torch, TorchCell, TorchCompiled) if compiled else (Torch, TorchCell)


class _Torch(Contender):
    engine = "torch"

    def __init__(self, cell: Cell) -> None:
        import torch

        super().__init__(cell)
        torch.set_num_threads(cell.threads)
        self._torch: Any = torch
        self._dtype = torch.bfloat16 if cell.compute_type == "bfloat16" else torch.float32
        # Time first is nn.LSTM's own layout; with batch_first it transposes.
        self._x: Any = torch.zeros(cell.time, cell.batch, cell.features, dtype=self._dtype)
        self._states: Any = None
        self._head: Any = self._dense_layer() if cell.dense else None

    def context(self) -> AbstractContextManager[object]:
        mode: AbstractContextManager[object] = self._torch.inference_mode()
        return mode

    def _tensor(self, array: Array | None) -> Any:
        return self._torch.from_numpy(np.array(array, dtype=np.float32, order="C"))

    def _dense_layer(self) -> Any:
        kernel, bias = self.cell.dense_weights()
        layer = self._torch.nn.Linear(*kernel.shape)
        layer.load_state_dict({"weight": self._tensor(kernel.T), "bias": self._tensor(bias)})
        return self._converted(layer)

    def _converted(self, module: Any) -> Any:
        """Return a module in the cell's compute type, ready to be called."""
        module = module.to(self._dtype).eval()
        if self.cell.compute_type != "int8":
            return module
        nn = self._torch.nn
        with warnings.catch_warnings():
            # It is to move into a package of its own some day.
            warnings.simplefilter("ignore", DeprecationWarning)
            holder = nn.Sequential(copy.deepcopy(module))
            kinds = {nn.LSTM, nn.LSTMCell, nn.Linear}
            return self._torch.ao.quantization.quantize_dynamic(holder, kinds, dtype=self._torch.qint8)[0]

    def _zero_state(self, *shape: int) -> tuple[Any, Any]:
        zeros = [self._torch.zeros(*shape, dtype=self._dtype) for _ in range(2)]
        return zeros[0], zeros[1]

    @staticmethod
    def _array(tensor: Any) -> Array:
        array: Array = tensor.float().numpy()
        return array.copy()


class Torch(_Torch):
    """``nn.LSTM``, eager; rows of different lengths as a packed sequence."""

    variant = "nn.LSTM"

    def __init__(self, cell: Cell) -> None:
        super().__init__(cell)
        lstm = self._torch.nn.LSTM(cell.features, cell.hidden, cell.layers, bidirectional=cell.bidirectional)
        parameters = {}
        for layer, cells in enumerate(cell.weights().cells):
            for suffix, own in zip(("", "_reverse"), cells, strict=False):
                name = f"l{layer}{suffix}"
                parameters[f"weight_ih_{name}"] = self._tensor(own.kernel.T)
                parameters[f"weight_hh_{name}"] = self._tensor(own.recurrent_kernel.T)
                parameters[f"bias_ih_{name}"] = self._tensor(own.bias)
                parameters[f"bias_hh_{name}"] = self._torch.zeros(4 * cell.hidden)
        lstm.load_state_dict(parameters)
        self._lstm = self._converted(lstm)
        lengths = cell.lengths()
        self._lengths = None if lengths is None else self._torch.from_numpy(lengths.copy())
        self.reset()

    @property
    def statement(self) -> str:
        if self.cell.streaming:
            return "y, state = lstm(x, state)" + ("; z = head(y)" if self.cell.dense else "")
        if self.cell.ragged:
            return "y, state = lstm(pack(x, lengths)); pad(y, total_length=time)"
        return "lstm(x)"

    @property
    def names(self) -> Mapping[str, object]:
        rnn = self._torch.nn.utils.rnn
        return {
            "lstm": self._lstm,
            "x": self._x,
            "state": self._states,
            "head": self._head,
            "lengths": self._lengths,
            "time": self.cell.time,
            "pack": rnn.pack_padded_sequence,
            "pad": rnn.pad_packed_sequence,
        }

    def feed(self, x: Array) -> None:
        self._x.copy_(self._tensor(x.swapaxes(0, 1)))

    def reset(self) -> None:
        self._states = self._zero_state(self.cell.layers * self.cell.directions, self.cell.batch, self.cell.hidden)

    def advance(self) -> Outputs:
        if self.cell.streaming:
            y, self._states = self._lstm(self._x, self._states)
            h, c = self._states
        elif self.cell.ragged:
            rnn = self._torch.nn.utils.rnn
            packed, (h, c) = self._lstm(rnn.pack_padded_sequence(self._x, self._lengths))
            y, _ = rnn.pad_packed_sequence(packed, total_length=self.cell.time)
        else:
            y, (h, c) = self._lstm(self._x)
        if self._head is not None:
            y = self._head(y)
        return Outputs(self._array(y).swapaxes(0, 1), self._array(h), self._array(c))


class TorchCell(_Torch):
    """``nn.LSTMCell``, eager: what PyTorch offers for single steps."""

    variant = "nn.LSTMCell"

    def __init__(self, cell: Cell) -> None:
        super().__init__(cell)
        self._x = self._x[0]
        self._cells = []
        for (own,) in cell.weights().cells:
            layer = self._torch.nn.LSTMCell(own.input_size, own.hidden_size)
            parameters = {
                "weight_ih": self._tensor(own.kernel.T),
                "weight_hh": self._tensor(own.recurrent_kernel.T),
                "bias_ih": self._tensor(own.bias),
                "bias_hh": self._torch.zeros(4 * own.hidden_size),
            }
            layer.load_state_dict(parameters)
            self._cells.append(self._converted(layer))
        self.reset()

    @property
    def statement(self) -> str:
        calls, source = [], "x"
        for layer in range(self.cell.layers):
            calls.append(f"s{layer} = cell{layer}({source}, s{layer})")
            source = f"s{layer}[0]"
        if self.cell.dense:
            calls.append(f"z = head({source})")
        return "; ".join(calls)

    @property
    def names(self) -> Mapping[str, object]:
        names: dict[str, object] = {"x": self._x, "head": self._head}
        for layer, (cell, state) in enumerate(zip(self._cells, self._states, strict=True)):
            names |= {f"cell{layer}": cell, f"s{layer}": state}
        return names

    def feed(self, x: Array) -> None:
        self._x.copy_(self._tensor(x[:, 0]))

    def reset(self) -> None:
        self._states = [self._zero_state(self.cell.batch, self.cell.hidden) for _ in self._cells]

    def advance(self) -> Outputs:
        source = self._x
        for layer, cell in enumerate(self._cells):
            self._states[layer] = cell(source, self._states[layer])
            source = self._states[layer][0]
        h, c = (np.stack([self._array(state[which]) for state in self._states]) for which in (0, 1))
        y = self._array(source if self._head is None else self._head(source))
        return Outputs(y[:, None], h, c)


class TorchCompiled(TorchCell):
    """``torch.compile(nn.LSTMCell)``."""

    variant = "torch.compile"

    def _converted(self, module: Any) -> Any:
        return self._torch.compile(super()._converted(module), dynamic=False)
