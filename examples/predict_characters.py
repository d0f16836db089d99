"""A Keras model from its file to predictions: what comes next in a text.

Run it from the repository's root::

    python examples/predict_characters.py "the value of the expres"
"""

import json
import sys
from pathlib import Path

import numpy as np

import lstm_engine as le

DATA = Path(le.__file__).parent / "data"


def main() -> None:
    """Print the likeliest next characters."""
    text = sys.argv[1] if len(sys.argv) > 1 else "the value of the expres"
    vocabulary = json.loads((DATA / "char_lstm.json").read_text(encoding="utf-8"))["vocabulary"]
    numbers = [vocabulary.index(character) for character in text.lower() if character in vocabulary]

    model = le.load(DATA / "char_lstm.keras")

    # The model was made for windows of 40 characters; a stream takes any number of them, one at a time.
    stream = model.stream()
    one_hot = np.eye(len(vocabulary), dtype=np.float32)
    y = stream.run(one_hot[numbers])

    for place in np.argsort(y[-1])[::-1][:5]:
        print(f"{vocabulary[place]!r:6} {100 * y[-1, place]:5.1f} %")


if __name__ == "__main__":
    main()
