"""The weights of the model that the attack corpus varies: an LSTM of one unit whose numbers are known."""

from __future__ import annotations

import numpy as np

#: Hidden size 1, one feature; gates in the order input, forget, cell, output.
KERNEL = np.array([[1.65, 1.63, 0.94, -0.19]], "f4")
RECURRENT = np.array([[2.00, 2.70, 1.41, 4.38]], "f4")
BIAS = np.array([0.62, 1.62, -0.32, 0.59], "f4")
