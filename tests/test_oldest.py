"""The oldest test: one unit worked out by hand, as the field learns it, stage by stage.

The numbers are to ten digits after the point; the oracle and float64 have to meet them to one unit of the last.
"""

from __future__ import annotations

import numpy as np
import pytest

import lstm_engine as le
from lstm_engine import reference
from lstm_engine.weights import CellWeights, LSTMWeights

#: gate: weight of h, weight of x, bias
FORGET = (2.70, 1.63, 1.62)
INPUT = (2.00, 1.65, 0.62)
CANDIDATE = (1.41, 0.94, -0.32)
OUTPUT = (4.38, -0.19, 0.59)

HIDDEN, CELL, X = 1.0, 2.0, 1.0

STAGES = {
    "forget_gate": 0.9974009322,
    "forgotten": 1.9948018645,
    "cell_candidate": 0.9660869290,
    "input_gate": 0.9862110115,
    "cell_state": 2.9475674319,
    "hidden_activation": 0.9945095042,
    "output_gate": 0.9916739069,
    "hidden_state": 0.9862291254,
}

SEQUENCES = {(0.0, 0.5, 0.25, 1.0): 0.0063931582, (1.0, 0.5, 0.25, 1.0): 0.9693934616}

LAST_DIGIT = 1e-10
#: Of float32: the numbers lie below 4, and the cell is a handful of operations.
FLOAT32 = 4 * 2.0**-23


@pytest.fixture
def weights() -> LSTMWeights:
    gates = np.array([INPUT, FORGET, CANDIDATE, OUTPUT])
    return LSTMWeights(((CellWeights(gates[:, 1][None], gates[:, 0][None], gates[:, 2]),),))


def test_every_stage_of_the_oracle(weights: LSTMWeights) -> None:
    trace = reference.cell_step([X], [HIDDEN], [CELL], weights.cells[0][0])
    for stage, wanted in STAGES.items():
        assert getattr(trace, stage)[0] == pytest.approx(wanted, abs=LAST_DIGIT), stage


@pytest.mark.parametrize(("sequence", "wanted"), SEQUENCES.items())
def test_sequences_of_the_oracle(weights: LSTMWeights, sequence: tuple[float, ...], wanted: float) -> None:
    y, (h, _) = reference.lstm(np.array(sequence)[:, None], weights)
    assert y[-1, 0] == pytest.approx(wanted, abs=LAST_DIGIT)
    assert h[0, 0] == y[-1, 0]


@pytest.mark.parametrize(
    ("backend", "compute_type", "bound"),
    [("fused", "float32", FLOAT32), ("blas", "float32", FLOAT32), ("blas", "float64", LAST_DIGIT)],
)
class TestEngine:
    def lstm(self, weights: LSTMWeights, backend: str, compute_type: str) -> le.LSTM:
        return le.LSTM(weights, backend=backend, compute_type=compute_type)

    def test_the_step(self, weights: LSTMWeights, backend: str, compute_type: str, bound: float) -> None:
        lstm = self.lstm(weights, backend, compute_type)
        y, (h, c) = lstm(np.array([[[X]]]), (np.array([[[HIDDEN]]]), np.array([[[CELL]]])))
        assert y.item() == pytest.approx(STAGES["hidden_state"], abs=bound)
        assert h.item() == y.item()
        assert c.item() == pytest.approx(STAGES["cell_state"], abs=bound)

    @pytest.mark.parametrize(("sequence", "wanted"), SEQUENCES.items())
    def test_sequences(
        self, *, weights: LSTMWeights, backend: str, compute_type: str, bound: float,
        sequence: tuple[float, ...], wanted: float,
    ) -> None:  # fmt: skip
        y, (h, _) = self.lstm(weights, backend, compute_type)(np.array(sequence)[:, None])
        assert y[-1, 0] == pytest.approx(wanted, abs=bound)
        assert h.item() == y[-1, 0]

    def test_the_stream(self, weights: LSTMWeights, backend: str, compute_type: str, bound: float) -> None:
        stream = self.lstm(weights, backend, compute_type).stream()
        for sequence, wanted in SEQUENCES.items():
            stream.reset()
            outputs = [stream.step(np.array([value], dtype=compute_type)) for value in sequence]
            assert outputs[-1].item() == pytest.approx(wanted, abs=bound)
