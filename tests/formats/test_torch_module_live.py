"""le.from_torch against PyTorch itself: every module alone, and every refusal of a real module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lstm_engine as le
from lstm_engine.errors import UnsupportedModelError

torch = pytest.importorskip("torch")
nn = torch.nn
pytestmark = [pytest.mark.interop, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(autouse=True)
def _quiet() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def same(ours: Any, module: Any, x: Any) -> None:
    """Compare the first output of both."""
    with torch.no_grad():
        y = module.eval()(x)
    y = (y[0] if isinstance(y, tuple) else y).numpy()
    found = ours(x.numpy())
    found = found[0] if isinstance(found, tuple) else found
    assert found.shape == y.shape
    assert np.linalg.norm(found - y) <= 1e-6 * max(np.linalg.norm(y), 1e-3)


def batch_norm(size: int) -> Any:
    norm = nn.BatchNorm1d(size)
    norm(torch.randn(50, size) * 2 + 1)
    return norm.eval()


ROWS, SEQUENCES, CHANNELS = (6, 8), (6, 9, 8), (6, 8, 9)
ALONE = [
    (nn.Linear(8, 3), SEQUENCES),
    (nn.Conv1d(8, 4, 3, stride=2, padding=2, dilation=2, groups=2), CHANNELS),
    (nn.Conv1d(8, 4, 4, padding="same", padding_mode="circular"), CHANNELS),
    (batch_norm(8), ROWS),
    (batch_norm(8), CHANNELS),
    (nn.BatchNorm1d(8, affine=False).eval(), CHANNELS),
    (nn.LayerNorm(8), SEQUENCES),
    (nn.LayerNorm((9, 8), eps=1e-3), SEQUENCES),
    (nn.LayerNorm(8, elementwise_affine=False), ROWS),
    (nn.LayerNorm(8, bias=False), ROWS),
    (nn.GRU(8, 5, 2, batch_first=True, bidirectional=True), SEQUENCES),
    (nn.GRU(8, 5, bias=False, batch_first=True), SEQUENCES),
    (nn.RNN(8, 5, nonlinearity="relu", batch_first=True), SEQUENCES),
    (nn.Flatten(), SEQUENCES),
    (nn.MaxPool1d(3, 2), CHANNELS),
    (nn.AvgPool1d(3, 2), CHANNELS),
    (nn.AdaptiveAvgPool1d(1), CHANNELS),
    (nn.AdaptiveMaxPool1d(1), CHANNELS),
    (nn.Softmax(1), CHANNELS),
    (nn.Softmax(dim=-1), ROWS),
    (nn.LogSoftmax(2), CHANNELS),
    (nn.PReLU(), CHANNELS),
    (nn.Hardtanh(0.0, 3.0), ROWS),
    *((kind(), ROWS) for kind in (
        nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Tanh, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus,
        nn.Softsign, nn.LeakyReLU, nn.RReLU, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LogSigmoid, nn.Identity,
        nn.Dropout, nn.Dropout1d, nn.AlphaDropout, nn.FeatureAlphaDropout,
    )),
]  # fmt: skip


@pytest.mark.parametrize("place", range(len(ALONE)), ids=lambda place: str(ALONE[place][0]))
def test_every_module_alone_computes_on_its_own_arrays(place: int) -> None:
    module, shape = ALONE[place]
    x = 3 * torch.randn(shape)
    layer = le.from_torch(module)
    same(le.Sequential([layer], input_shape=shape[1:]), module, x)


def test_recurrent_modules_and_an_embedding() -> None:
    lstm = nn.LSTM(8, 5, 2, bidirectional=True, batch_first=True, proj_size=3)
    same(le.from_torch(lstm), lstm, torch.randn(SEQUENCES))
    cell = nn.LSTMCell(8, 5)
    y, _ = le.from_torch(cell)(np.ones((6, 1, 8), np.float32))
    np.testing.assert_allclose(y[:, 0], cell(torch.ones(6, 8))[0].detach().numpy(), rtol=1e-5, atol=1e-6)
    for kind, ours in ((nn.GRUCell, le.GRU), (nn.RNNCell, le.RNN)):
        cell = kind(8, 5)
        y = le.Sequential([ours.from_torch(cell)])(np.ones((6, 1, 8), np.float32))
        np.testing.assert_allclose(y[:, 0], cell(torch.ones(6, 8)).detach().numpy(), rtol=1e-5, atol=1e-6)
    embedding = nn.Embedding(9, 4, padding_idx=0)
    same(le.Sequential([le.from_torch(embedding)]), embedding, torch.randint(0, 9, (3, 5)))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_lengths_are_those_of_packed_sequences(kind: Any) -> None:
    module = kind(8, 5, 2, bidirectional=True, batch_first=True).eval()
    x, lengths = torch.randn(SEQUENCES), torch.tensor([9, 3, 5, 1, 9, 2])
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    with torch.no_grad():
        y, _ = nn.utils.rnn.pad_packed_sequence(module(packed)[0], batch_first=True, total_length=9)
    found = le.from_torch(nn.Sequential(module))(x.numpy(), lengths=lengths.numpy())
    np.testing.assert_allclose(found, y.numpy(), rtol=0, atol=2e-7)


def test_wrapped_and_normalised_modules() -> None:
    inner = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(8, 4)), nn.ReLU(), batch_norm(4))
    x = torch.randn(ROWS)
    for module in (inner, nn.DataParallel(inner), torch.compile(inner)):
        same(le.from_torch(module), inner, x)
    same(le.from_torch(nn.Sequential(torch.compile(inner), nn.Tanh())), nn.Sequential(inner, nn.Tanh()), x)
    old = nn.Sequential(nn.utils.weight_norm(nn.Conv1d(8, 4, 3), dim=1))
    same(le.from_torch(old), old, torch.randn(CHANNELS))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_dtypes(dtype: str) -> None:
    module = nn.Sequential(nn.Conv1d(8, 4, 3), batch_norm(4), nn.ReLU()).to(getattr(torch, dtype))
    ours = le.from_torch(module, compute_type="float64")
    x = torch.randn(CHANNELS, dtype=torch.float64)
    with torch.no_grad():
        y = module.double()(x).numpy()
    np.testing.assert_allclose(ours(x.numpy()), y, rtol=1e-12, atol=1e-12)


class Net(nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)

    def forward(self, x: Any) -> Any:
        return self.fc(x) * 2


def dynamic() -> Any:
    return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(2, 2)), {nn.Linear})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Net, r"Net is none of the modules that are understood.*state_dict\(\).*le\.Sequential"),
        (lambda: nn.Sequential(nn.Linear(2, 2), Net()), r"'1': a .*Net is none of the modules"),
        (lambda: torch.jit.script(nn.Linear(2, 2)), "TorchScript.*state_dict"),
        (lambda: torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), "TorchScript.*state_dict"),
        (dynamic, r"quantized\.dynamic\.modules\.linear\.Linear keeps its weights packed.*float model"),
        (lambda: nn.Transformer(4, 1), "Transformer is none of the modules"),
        (lambda: nn.Conv2d(1, 1, 1), "Conv2d is none of the modules"),
        (lambda: nn.ConvTranspose1d(1, 1, 1), "ConvTranspose1d is none of the modules"),
        (lambda: nn.ModuleList([nn.Linear(2, 2)]), "ModuleList is none of the modules"),
        (lambda: nn.BatchNorm1d(2, track_running_stats=False), "track_running_stats=False"),
        (lambda: nn.Embedding(3, 2, max_norm=1.0), "max_norm is not implemented"),
        (lambda: nn.utils.spectral_norm(nn.Linear(2, 2)), "SpectralNorm"),
        (lambda: nn.utils.parametrizations.orthogonal(nn.Linear(2, 2)), "parametrized by _Orthogonal"),
        (lambda: nn.PReLU(3), "PReLU of 3 slopes"),
        (lambda: nn.LazyLinear(3), "forward hook"),
        (lambda: nn.Sequential(nn.LSTM(2, 2), nn.Linear(2, 2)), "gives a tuple"),
        (lambda: nn.Sequential(nn.LSTM(2, 2)), "batch_first=False"),
        (lambda: torch.ones(3), "expected a module of PyTorch, found torch.Tensor"),
    ],
)  # fmt: skip
def test_what_is_refused(make: Any, words: str) -> None:
    with pytest.raises(UnsupportedModelError, match=words):
        le.from_torch(make())


def test_a_torchscript_file_is_refused_by_name(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "m.pt"))
    torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)).save(str(tmp_path / "t.pt"))
    for name in ("m.pt", "t.pt"):
        with pytest.raises(
            UnsupportedModelError, match=r"TorchScript archive.*torch\.jit\.load\(path\)\.state_dict\(\)"
        ):
            le.Dense.from_torch(tmp_path / name)
