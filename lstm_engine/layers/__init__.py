"""The layers that models are made of, one file for each subject.

=================  ===============================================================================
base               what every layer is; tensors and masks
numerics           where the arithmetic is done, for each compute type
functions          activations of layers
core               Dense, Embedding, Masking, Activate, PReLU, Identity
shaping            Flatten, Reshape, Permute, RepeatVector, LastStep
normalization      BatchNormalization, LayerNormalization
merging            Concatenate, Merge: Add, Subtract, Multiply, Average, Maximum, Minimum
pooling            GlobalAveragePooling1D, GlobalMaxPooling1D
recurrence         the contract of cells that are run over time; chains of them
lstm_cells         LSTM cells: the packed core
gru, simple_rnn    GRU and simple recurrent cells, a loop in NumPy
recurrent          RecurrentLayer, LSTMLayer, LSTMStack, FinalHidden
bidirectional      BidirectionalLayer
wrappers           TimeDistributed
graph              how layers are connected, and how a graph runs
keras_config       what a Keras config says, option by option
keras_activations  what Keras means by the name of an activation, version by version
keras_layers       from a Keras config to a layer: a new Keras layer is added here
keras_recurrent    the same for recurrent layers and their cells
keras_lstm         an LSTM alone out of a Keras file or layer
=================  ===============================================================================
"""

from .core import Activate, Dense, Embedding, Masking
from .normalization import LayerNormalization
from .recurrent import FinalHidden
from .shaping import LastStep

__all__ = ["Activate", "Dense", "Embedding", "FinalHidden", "LastStep", "LayerNormalization", "Masking"]
