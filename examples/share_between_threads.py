"""One model, several threads: a Model is immutable and shared, a Stream belongs to one thread.

Run it from the repository's root::

    python examples/share_between_threads.py
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import lstm_engine as le

DATA = Path(le.__file__).parent / "data"


def main() -> None:
    """Predict in four threads at once, and find the same bits as in one."""
    model = le.load(DATA / "char_lstm.keras")
    with np.load(DATA / "char_recorded.npz", allow_pickle=False) as recorded:
        x = np.eye(60, dtype=np.float32)[recorded["contexts"]]

    expected = model(x)
    with ThreadPoolExecutor(max_workers=4) as threads:
        parts = list(threads.map(model, np.array_split(x, 16)))

    same = np.concatenate(parts).tobytes() == expected.tobytes()
    print(f"{len(x)} predictions in 16 parts by 4 threads: {'the same bits' if same else 'other bits'} as in one call")


if __name__ == "__main__":
    main()
