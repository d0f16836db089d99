"""The snippets of docs/clusters.md: those for Ray on a real Ray, that for Triton against a stand-in for its module.

Blocks of this page are marked ``py`` and the engine, for each needs other surroundings than those of the other pages.
"""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray_support import ROOT, run_alone

from lstm_engine.demo import DATA

PAGE = (ROOT / "docs/clusters.md").read_text(encoding="utf-8")


def snippets(engine: str) -> list[str]:
    return re.findall(rf"^```py {engine}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.services
def test_ray_snippets_run(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    assert len(snippets("ray")) == 2
    (tmp_path / "page.py").write_text("\n".join(snippets("ray")), encoding="utf-8")
    run_alone(tmp_path / "page.py", folder=tmp_path)


def test_the_spark_snippet_is_python() -> None:
    (snippet,) = snippets("spark")
    compile(snippet, "clusters.md", "exec")  # running it needs Java


class _Tensor:
    def __init__(self, name: str, values: Any) -> None:
        self.name, self.values = name, values

    def as_numpy(self) -> Any:
        return self.values


class _Response:
    def __init__(self, tensors: list[_Tensor]) -> None:
        self.tensors = tensors


def test_the_triton_snippet_computes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = types.ModuleType("triton_python_backend_utils")
    module.Tensor, module.InferenceResponse = _Tensor, _Response  # type: ignore[attr-defined]
    module.get_input_tensor_by_name = lambda request, name: request[name]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    (tmp_path / "1").symlink_to(DATA)
    (snippet,) = snippets("triton")
    namespace: dict[str, Any] = {}
    exec(compile(snippet, "clusters.md", "exec"), namespace)
    model = namespace["TritonPythonModel"]()
    model.initialize({"model_repository": str(tmp_path), "model_version": "1"})
    with np.load(DATA / "char_recorded.npz", allow_pickle=False) as archive:
        x, expected = np.eye(60, dtype=np.float32)[archive["contexts"]], archive["outputs"]
    name = re.findall(r'input \[\{ name: "(\w+)"', PAGE)[0]
    assert name == model.model.inputs[0].name
    assert f'output [{{ name: "{model.model.outputs[0].name}"' in PAGE
    responses = model.execute(
        [{name: _Tensor(name, x[:3])}, {name: _Tensor(name, x[3:4])}, {name: _Tensor(name, x[4:9])}]
    )
    found = [tensor.values for response in responses for tensor in response.tensors]
    assert [len(part) for part in found] == [3, 1, 5]
    np.testing.assert_allclose(np.concatenate(found), expected[:9], rtol=0, atol=1e-6)
    assert np.concatenate(found).tobytes() == model.model(x[:9]).tobytes()
