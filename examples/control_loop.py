"""A model in a control loop: 125 readings a second, each answered long before the next one comes.

The weights are random, only the time matters here. Run it from the repository's root::

    python examples/control_loop.py [SECONDS]
"""

import sys
import time

import numpy as np

import lstm_engine as le

PERIOD = 1 / 125
SENSORS, HIDDEN = 16, 128


def main() -> None:
    """Run the loop, and print how long the answers took."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0
    random = np.random.default_rng(1)
    lstm = le.LSTM.from_weights(
        kernel=random.normal(0, 0.1, (SENSORS, 4 * HIDDEN)),
        recurrent=random.normal(0, 0.1, (HIDDEN, 4 * HIDDEN)),
    )
    dense = le.Dense(kernel=random.normal(0, 0.1, (HIDDEN, 1)))
    model = le.Sequential([lstm, dense])

    # Everything that the loop needs is made before it begins.
    stream = model.stream()
    reading, command = np.zeros(SENSORS, np.float32), np.zeros(1, np.float32)
    took = []
    due = time.perf_counter()
    while len(took) < seconds / PERIOD:
        time.sleep(max(0.0, due - time.perf_counter()))
        reading[:] = random.standard_normal(SENSORS)  # stands for the sensors
        began = time.perf_counter()
        stream.step(reading, out=command)
        took.append(time.perf_counter() - began)
        due += PERIOD
    p50, worst = np.percentile(took, [50, 100]) * 1e6
    print(f"{len(took)} readings: p50 {p50:.1f} us, worst {worst:.1f} us, of {PERIOD * 1e6:.0f} us that there are")


if __name__ == "__main__":
    main()
