"""Models and LSTMs in the words of other frameworks."""
