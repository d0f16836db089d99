"""Train the character model of the demo with Keras, and record what Keras makes of it.

The text is the English of the language reference that every CPython carries, ``pydoc_data.topics``.
It changes a little from one Python to the next; the committed files were made with the version
named in ``char_lstm.json``, and the held-out text is committed beside the model for that reason.

The model is ``LSTM(128, input_shape=(40, vocabulary))`` and a softmax layer: it reads 40 one-hot
characters and predicts the next one. It is trained in the same weights' sequence form: windows of
100 characters with a prediction at every position, which teaches 100 times as much from one
pass and lets the state be carried for longer than 40 characters when text is generated. The figures
recorded are those of the 40-character form, from a zero state for every prediction.

The trained weights are rounded to the precision of bfloat16. They stay float32 in the file, and half of their bits are
zero, so that the model takes half the room in a package; it costs less than a thousandth of a bit for each character.
Everything that is recorded, the figures and the outputs, is of the rounded model.

Run it from the repository's root (about five minutes on one core)::

    KERAS_BACKEND=tensorflow python examples/models/train_char_keras.py

It writes char_lstm.keras, char_lstm.json, char_held_out.txt and char_recorded.npz to
``lstm_engine/data``.
"""

from __future__ import annotations

import json
import os
import pydoc_data.topics
import sys
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

import keras
import numpy as np

DATA = Path(__file__).parents[2] / "lstm_engine" / "data"

#: Every symbol the model knows; the text is lower-cased, and UNKNOWN stands for all others.
VOCABULARY = "\n abcdefghijklmnopqrstuvwxyz0123456789.,:;-_()[]{}<>=+*/|'\"?"
UNKNOWN = "?"
#: Typographic characters that have a plain form among the symbols.
PLAIN = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "—": "-", "–": "-", "…": "..."})

WINDOW = 40
UNITS = 128
TRAINING_WINDOW = 100
HELD_OUT = 12_000
VALIDATION = 12_000
#: How many windows' outputs are recorded, from the beginning of the held-out text to its end.
RECORDED = 32
EPOCHS = 50
BATCH = 64
SEED = 1997


def prepared_text() -> str:
    """Return all topics in order of their names, in the model's symbols, each paragraph once.

    Many topics repeat parts of others. A paragraph that stood in both parts would make the held-out
    figures better than they are, so only its first place is kept.
    """
    topics = pydoc_data.topics.topics
    kept: dict[str, None] = {}
    for name in sorted(topics):
        text = topics[name].translate(PLAIN).lower()
        text = "".join(symbol if symbol in VOCABULARY else UNKNOWN for symbol in text)
        kept.update(dict.fromkeys(text.split("\n\n")))
    return "\n\n".join(kept)


def encoded(text: str) -> np.ndarray:
    """Return the symbols' numbers, (characters,) uint8."""
    number = {symbol: place for place, symbol in enumerate(VOCABULARY)}
    return np.array([number[symbol] for symbol in text], dtype=np.uint8)


def one_hot(numbers: np.ndarray) -> np.ndarray:
    """Return float32 of shape (..., vocabulary)."""
    return np.eye(len(VOCABULARY), dtype=np.float32)[numbers]


def windows(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return every window of 40 characters, (windows, 40), and the character after each."""
    return np.lib.stride_tricks.sliding_window_view(numbers, WINDOW)[:-1], numbers[WINDOW:]


def predict(model: keras.Model, contexts: np.ndarray) -> np.ndarray:
    """Return the predicted distributions, (windows, vocabulary)."""
    parts = [
        keras.ops.convert_to_numpy(model(one_hot(contexts[start : start + 500])))
        for start in range(0, len(contexts), 500)
    ]
    return np.concatenate(parts)


def metric(probabilities: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Return the mean cross-entropy in bits for each character, and the share of right first guesses."""
    chosen = probabilities[np.arange(len(targets)), targets].astype(np.float64)
    return {
        "bits_per_character": float(-np.log2(chosen).mean()),
        "accuracy": float((probabilities.argmax(axis=1) == targets).mean()),
    }


def models() -> tuple[keras.Model, keras.Model]:
    """Return the model that is saved, and its sequence form for training."""
    final = keras.Sequential(
        [
            keras.layers.LSTM(UNITS, input_shape=(WINDOW, len(VOCABULARY))),
            keras.layers.Dense(len(VOCABULARY), activation="softmax"),
        ],
        name="char_lstm",
    )
    training = keras.Sequential(
        [
            keras.Input((TRAINING_WINDOW, len(VOCABULARY))),
            keras.layers.LSTM(UNITS, return_sequences=True),
            keras.layers.Dropout(0.1, seed=SEED),
            keras.layers.Dense(len(VOCABULARY), activation="softmax"),
        ]
    )
    return final, training


def parts() -> tuple[str, str, str]:
    """Return the text to train on, to choose the best epoch by, and to hold out."""
    text = prepared_text()
    return text[: -HELD_OUT - VALIDATION], text[-HELD_OUT - VALIDATION : -HELD_OUT], text[-HELD_OUT:]


def train() -> tuple[list[np.ndarray], int, float]:
    """Train, and choose the best epoch on the validation part: return its weights, its number and the CPU seconds."""
    keras.utils.set_random_seed(SEED)
    random = np.random.default_rng(SEED)
    training_text, validation_text, _ = parts()
    numbers = encoded(training_text)
    validation_contexts, validation_targets = windows(encoded(validation_text))

    final, training = models()
    steps = (len(numbers) - TRAINING_WINDOW - 1) // (TRAINING_WINDOW * BATCH)
    rate = keras.optimizers.schedules.CosineDecay(4e-3, EPOCHS * steps, alpha=0.01)
    training.compile(keras.optimizers.Adam(rate, clipnorm=1.0), "sparse_categorical_crossentropy")

    best, best_weights, best_epoch = np.inf, training.get_weights(), 0
    began = time.process_time()
    for epoch in range(1, EPOCHS + 1):
        # Windows that start elsewhere in every epoch, so that none is learnt by heart.
        first = random.integers(TRAINING_WINDOW)
        starts = random.permutation(np.arange(first, len(numbers) - TRAINING_WINDOW - 1, TRAINING_WINDOW))
        training.reset_metrics()
        loss = 0.0
        for start in range(0, len(starts) - BATCH + 1, BATCH):
            chosen = starts[start : start + BATCH, None] + np.arange(TRAINING_WINDOW + 1)
            taken = numbers[chosen]
            loss = training.train_on_batch(one_hot(taken[:, :-1]), taken[:, 1:])  # the mean of the epoch so far
        if epoch % 2 == 0 or epoch == EPOCHS:
            final.set_weights(training.get_weights())
            score = metric(predict(final, validation_contexts), validation_targets)
            if score["bits_per_character"] < best:
                best, best_weights, best_epoch = score["bits_per_character"], training.get_weights(), epoch
            print(f"epoch {epoch}: loss {loss / np.log(2):.3f} bits, validation {score}", flush=True)
    return best_weights, best_epoch, time.process_time() - began


def rounded(weights: np.ndarray) -> np.ndarray:
    """Return the nearest values that bfloat16 has, as float32."""
    return keras.ops.convert_to_numpy(keras.ops.cast(keras.ops.cast(weights, "bfloat16"), "float32"))


def record(weights: list[np.ndarray], epoch: int, cpu_seconds: float) -> None:
    """Round the weights, score the held-out part with what is left of them, write the files."""
    training_text, _, held_out_text = parts()
    final, _ = models()
    final.set_weights([rounded(array) for array in weights])
    DATA.mkdir(exist_ok=True)
    final.save(DATA / "char_lstm.keras")
    (DATA / "char_held_out.txt").write_text(held_out_text, encoding="ascii", newline="\n")
    contexts, targets = windows(encoded(held_out_text))
    probabilities = predict(final, contexts)
    places = np.linspace(0, len(targets) - 1, RECORDED, dtype=np.uint16)
    np.savez_compressed(
        DATA / "char_recorded.npz", places=places, contexts=contexts[places], outputs=probabilities[places]
    )
    numbers = encoded(training_text)
    frequencies = np.bincount(numbers, minlength=len(VOCABULARY)) + 1.0
    facts = {
        "model": "char_lstm.keras",
        "vocabulary": VOCABULARY,
        "unknown": UNKNOWN,
        "window": WINDOW,
        "held_out_characters": len(held_out_text),
        "held_out_predictions": len(targets),
        "training_characters": len(training_text),
        "weights": "float32, rounded to the precision of bfloat16",
        "framework_metric": metric(probabilities, targets),
        "baseline_letter_frequencies": metric(np.tile(frequencies / frequencies.sum(), (len(targets), 1)), targets),
        "chosen_epoch": epoch,
        "cpu_seconds": round(cpu_seconds),
        "versions": {
            "python": sys.version.split()[0],
            "keras": keras.version(),
            "backend": keras.backend.backend(),
            keras.backend.backend(): sys.modules[keras.backend.backend()].__version__,
            "numpy": np.__version__,
        },
    }
    (DATA / "char_lstm.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    record(*train())
