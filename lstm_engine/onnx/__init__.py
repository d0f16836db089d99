"""ONNX graphs: what a file says, as plain data, and how it is computed over NumPy arrays.

::

    formats/onnx.py   bytes -> OnnxGraph (graph.py), the one place that knows the onnx package
    program.py        OnnxGraph -> Program: nodes bound to their operators, constant parts computed
    operators.py      what the nodes compute; shaping.py, reducing.py, recurrent.py and quantized.py add their parts
    control.py        loops and branches, whose bodies are Programs too
    model.py          the Model around a Program
"""
