"""Record what ``build_keras_generations.py`` builds in each release of Keras, for the tests that have no framework.

::

    python tests/formats/make_keras_generation_fixtures.py [--only NAME]

writes ``data/keras_generations/NAME.tar.xz``. Older releases are found as ``make_keras_fixtures.py`` says.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from recording import pack, run

HERE = Path(__file__).parent
DATA = HERE / "data" / "keras_generations"

#: Every writer, with what the builder is told.
WRITERS = {
    "keras-3.15.1": ["--package", "keras"],
    "keras-3.3.3": ["--version", "3.3.3"],
    "tf_keras-2.21.0": ["--package", "tf_keras"],
    "keras-2.14.0": ["--version", "2.14.0"],
    "keras-2.13.1": ["--version", "2.13.1"],
    "keras-2.12.0": ["--version", "2.12.0"],
}


def record(name: str) -> None:
    """Record one writer."""
    with tempfile.TemporaryDirectory() as folder:
        run(HERE / "build_keras_generations.py", "--directory", folder, *WRITERS[name])
        pack(Path(folder), DATA / f"{name}.tar.xz")


def main() -> None:
    """Record all writers, or one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=WRITERS, help="one writer")
    options = parser.parse_args()
    for name in [options.only] if options.only else WRITERS:
        record(name)


if __name__ == "__main__":
    main()
