"""The layers that models are made of, one file for each subject.

=================  ===============================================================================
base               what every layer is; tensors and masks
numerics           where the arithmetic is done, for each compute type
functions          activations of layers
core               Dense, Embedding, Masking, Activate, PReLU, Identity
shaping            Flatten, Reshape, Permute, RepeatVector, Cropping1D, ZeroPadding1D, UpSampling1D, LastStep
normalization      BatchNormalization, LayerNormalization, Normalization, Rescaling, UnitNormalization
merging            Concatenate, Dot, Merge: Add, Subtract, Multiply, Average, Maximum, Minimum
windows            where the windows of convolution and pooling lie
convolution        Conv1D, DepthwiseConv1D, SeparableConv1D
pooling            MaxPooling1D, AveragePooling1D, GlobalAveragePooling1D, GlobalMaxPooling1D
attention          Attention, AdditiveAttention, MultiHeadAttention
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
keras_feedforward  the same for convolution, pooling, attention and their kin
keras_recurrent    the same for recurrent layers and their cells
keras_lstm         an LSTM alone out of a Keras file or layer
=================  ===============================================================================
"""

from .core import Activate, Dense, Embedding, Masking
from .normalization import LayerNormalization
from .recurrent import FinalHidden
from .shaping import LastStep

__all__ = ["Activate", "Dense", "Embedding", "FinalHidden", "LastStep", "LayerNormalization", "Masking"]
