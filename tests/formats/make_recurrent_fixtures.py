"""Record small models of recurrent layers as Keras itself writes them, with Keras's own outputs.

::

    python tests/formats/make_recurrent_fixtures.py

runs itself once for Keras 3 and once for tf-keras, as installed. Each writes ``data/keras_recurrent/PACKAGE.tar.xz``:
what ``tests/interop/keras_recurrent.py`` writes, for some of its variants.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from recording import pack

HERE = Path(__file__).parent
DATA = HERE / "data" / "keras_recurrent"
PACKAGES = ("keras", "tf_keras")

_CELLS = ("gru", "gru_reset_before", "gru_softmax", "simple", "rnn_lstm", "rnn_gru", "stack_of_lstms", "stack_of_all")
CHOSEN = {
    *(f"{cell}-masked_return_sequences_return_state" for cell in _CELLS),
    *(
        f"bidirectional_{cell}-None_masked_return_sequences_return_state"
        for cell in ("gru", "rnn_lstm", "stack_of_all")
    ),
    *(f"{cell}-masked_initial_state" for cell in ("rnn_simple", "rnn_lstm", "stack_of_all")),
    *(f"bidirectional_{cell}-masked_initial_state" for cell in ("lstm", "gru", "stack_of_all")),
    "bidirectional-backwards_first",
    "bidirectional-lstm_and_rnn",
    "bidirectional_gru_without_bias-sum_masked",
    "gru-masked_return_sequences_go_backwards_zero_output_for_mask",
    "gru-initial_state_alone",
    "gru-unroll_go_backwards_return_sequences_zero_output_for_mask",
    "simple_without_bias-stateful",
    "stack_of_one",
    "time_distributed_bidirectional_stack_of_lstms",
    "time_distributed_rnn_simple-False",
}
#: What Keras 2 alone has.
CHOSEN_OF_KERAS_2 = {
    "bidirectional_time_major_gru-True",
    "time_distributed_time_major_gru",
    "time_major-stack",
    "time_major_gru-masked_return_sequences_go_backwards",
    "time_major_gru-zeroed_True",
    "time_major_lstm-encoder",
    "time_major_lstm-initial_state",
    "time_major_lstm-masked",
    "time_major_simple-stateful",
    "time_major_stack_of_all-masked_return_sequences",
}


def record(package: str) -> None:
    """Write the chosen models of one framework, in a process of its own."""
    sys.path.insert(0, str(HERE.parent / "interop"))
    from keras_recurrent import framework, write

    keras = framework(package)
    chosen = CHOSEN | (CHOSEN_OF_KERAS_2 if package == "tf_keras" else set())
    with tempfile.TemporaryDirectory() as folder:
        entries = write(keras, Path(folder), lambda name: name in chosen)
        assert {entry["name"] for entry in entries} == chosen, chosen - {entry["name"] for entry in entries}
        pack(Path(folder), DATA / f"{package}.tar.xz")
    print(f"{len(entries)} models of {keras.__version__}")


def main() -> None:
    """Record with every framework."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PACKAGES, help="in this process (used by the script itself)")
    options = parser.parse_args()
    if options.only:
        record(options.only)
        return
    for package in PACKAGES:
        command = [sys.executable, __file__, "--only", package]
        subprocess.run(command, check=True, env={**os.environ, "KERAS_BACKEND": "tensorflow"})


if __name__ == "__main__":
    main()
