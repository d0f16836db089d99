"""Record the ONNX fixtures: ``data/onnx/WRITER.tar.xz`` with what ``interop/build_onnx.py`` builds.

    python tests/formats/make_onnx_fixtures.py [WRITER ...]

What exporters write about themselves into nodes (stack traces, with paths) is left out.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import onnx
from recording import pack

HERE = Path(__file__).parent
BUILDER = HERE.parent / "interop" / "build_onnx.py"
sys.path.append(str(BUILDER.parent))

from build_onnx import WRITERS  # noqa: E402


def cleaned(path: Path) -> None:
    """Take the remarks out of a model."""
    model = onnx.load(str(path))
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    for value in (*model.graph.input, *model.graph.output):
        value.ClearField("metadata_props")
    model.graph.ClearField("value_info")
    onnx.save(model, str(path))


def record(writer: str) -> None:
    """Build the models of a writer and pack them."""
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run([sys.executable, str(BUILDER), "--directory", directory, "--writer", writer], check=True)
        for path in Path(directory).glob("*.onnx"):
            cleaned(path)
        pack(Path(directory), HERE / "data" / "onnx" / f"{writer}.tar.xz")


if __name__ == "__main__":
    for name in sys.argv[1:] or WRITERS:
        record(name)
