"""Record small models with convolution, pooling, attention and the like, as Keras itself writes them, with its outputs.

::

    python tests/formats/make_feedforward_fixtures.py [--only NAME]

runs ``tests/interop/build_keras.py`` once for each writer in :data:`WRITERS`: Keras 3 and tf-keras as installed, and
older releases from the folders that ``make_keras_fixtures.py`` tells of. Each run gives
``data/keras_feedforward/WRITER.tar.xz``: the models, and for each ``NAME.npz`` with its inputs and outputs.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from recording import pack, run

HERE = Path(__file__).parent
DATA = HERE / "data" / "keras_feedforward"

ALL = (
    "convolved",
    "attended",
    "resized",
    "multi_headed",
    "scaled",
    "dotted",
    "merged",
    "transformer",
    "convolved_twice",
)

#: For each writer: its release if it is not the installed one, the package, how many models, and of which themes. What
#: the releases of Keras 3 make of masks differs most around a transformer's block.
WRITERS = {
    "keras": (None, "keras", 18, ALL),
    "tf_keras": (None, "tf_keras", 18, ALL),
    "tf_keras-more": (None, "tf_keras", 15, ("attended", "scaled", "resized")),
    "keras-3.3.3": ("3.3.3", "keras", 3, ("transformer",)),
    "keras-3.5.0": ("3.5.0", "keras", 3, ("transformer",)),
    "keras-3.8.0": ("3.8.0", "keras", 4, ("transformer", "multi_headed")),
}


def record(name: str) -> None:
    """Write the models of one writer."""
    release, package, count, themes = WRITERS[name]
    environment = {"KERAS_BACKEND": "torch"}
    if release is not None:
        environment["PYTHONPATH"] = str(HERE / ".keras" / release)
    with tempfile.TemporaryDirectory() as folder:
        options = ["--directory", folder, "--count", str(count), "--seed", "1997", "--package", package, "--themes"]
        run(HERE.parent / "interop" / "build_keras.py", *options, *themes, **environment)
        pack(Path(folder), DATA / f"{name}.tar.xz")


def main() -> None:
    """Record everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=WRITERS, help="one writer")
    options = parser.parse_args()
    for name in [options.only] if options.only else WRITERS:
        record(name)


if __name__ == "__main__":
    main()
