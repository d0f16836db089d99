"""Random models around layers without recurrence: convolution, pooling, attention and their kin.

What ``build_keras.py`` mixes into its builder: each method is a theme and returns the model's outputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

BATCH = 3


class FeedforwardThemes:
    """Themes of models; the choices and the recurrent layers are those of ``build_keras.Builder``."""

    # What the builder has.
    activation: Any
    chance: Any
    head: Any
    input: Any
    inputs: Any
    is_keras_2: Any
    keras: Any
    layers: Any
    lstm: Any
    make: Any
    one_of: Any
    random: Any
    recurrent: Any
    size: Any
    has_mask: Any
    dtype: Any

    @property
    def has_scores(self) -> bool:
        """Whether a symbolic call can return the scores: not in the first releases of Keras 3."""
        return self.is_keras_2 or tuple(map(int, self.keras.__version__.split(".")[:2])) >= (3, 10)

    # ---- inputs

    def steps(self, time: int, features: int, *, masked: bool = False, fixed: bool = True) -> Any:
        """Return a sequence of so many steps; the first one of a masked sequence always counts."""
        x = self.random.standard_normal((BATCH, time, features)).astype(np.float32)
        if masked:
            gaps = self.random.random((BATCH, time)) < 0.4
            gaps[:, 0] = False
            x[gaps] = 0.0
        self.inputs.append(x)
        made = self.input((time if fixed else None, features))
        if not masked:
            return made
        self.has_mask = True
        return self.make("Masking")(made)

    # ---- layers

    def convolution(self, features: int, time: int) -> Any:
        """Return a convolution with random options that an input of this size can go through."""
        kind = self.one_of(("Conv1D", "Conv1D", "DepthwiseConv1D", "SeparableConv1D"))
        options: dict[str, Any] = {
            "kernel_size": self.size(1, min(3, time)),
            "padding": self.one_of(("valid", "same", "causal") if kind == "Conv1D" else ("valid", "same")),
            "activation": self.one_of((self.activation(), "linear", "softmax")),
            "use_bias": self.chance(0.8),
        }
        strides, dilation = self.size(1, 3), self.size(1, 2)
        if self.chance(0.5):
            options["strides"] = strides
        elif (options["kernel_size"] - 1) * dilation < time:
            options["dilation_rate"] = dilation
        if kind == "Conv1D":
            groups = self.one_of([number for number in (1, 2, 3) if features % number == 0])
            return self.make(kind, self.size(1, 4) * groups, groups=groups, **options)
        options["depth_multiplier"] = self.size(1, 3)
        return self.make(kind, *([self.size(1, 6)] if kind == "SeparableConv1D" else []), **options)

    def pooling(self, time: int) -> Any:
        kind = self.one_of(("MaxPooling1D", "AveragePooling1D"))
        return self.make(
            kind,
            self.size(1, min(3, time)),
            strides=self.one_of((None, 1, 2)),
            padding=self.one_of(("valid", "same")),
        )

    def some_of(self, options: tuple[str, ...], count: int) -> list[str]:
        """Return so many different ones of ``options``, in any order."""
        return [options[place] for place in self.random.permutation(len(options))[:count]]

    def scaling(self, kind: str, features: int, time: int | None) -> Any:
        """Return a layer that works on numbers one by one, or that makes rows of length one."""
        match kind:
            case "PReLU":
                return self.make("PReLU", shared_axes=[1] if time is None or self.chance(0.6) else None)
            case "LeakyReLU":
                return self.make("LeakyReLU", 0.2)
            case "ELU":
                return self.make("ELU", 0.7)
            case "given":
                mean, variance = self.random.standard_normal(features), self.random.uniform(0.3, 2.0, features)
                rounded = {"mean": mean.astype(np.float32).tolist(), "variance": variance.astype(np.float32).tolist()}
                return self.make("Normalization", **rounded, invert=not self.is_keras_2 and self.chance(0.3))
            case "adapted":
                axis = self.one_of((-1, None) if time is None else (-1, None, (1, 2)))
                return self.make("Normalization", axis=axis)
            case "Rescaling":
                scale = self.random.uniform(0.3, 2.0, features).astype(np.float32)
                return self.make("Rescaling", self.one_of((0.5, scale.tolist())), offset=self.one_of((0.0, -0.25)))
            case _:
                return self.make("UnitNormalization", axis=self.one_of((-1, [-1])))

    def attention(self, **options: Any) -> Any:
        if self.chance(0.5):
            return self.make("AdditiveAttention", use_scale=self.chance(0.6), dropout=0.1)
        return self.make("Attention", use_scale=self.chance(0.6), score_mode=self.one_of(("dot", "concat")), **options)

    def heads(self, **options: Any) -> Any:
        return self.make(
            "MultiHeadAttention",
            self.size(1, 3),
            self.size(1, 5),
            value_dim=self.one_of((None, 3)),
            use_bias=self.chance(0.7),
            dropout=self.one_of((0.0, 0.2)),
            **options,
        )

    # ---- themes

    def convolved(self) -> Any:
        """Convolution and pooling before a recurrent layer; a mask before them is lost."""
        features, time = self.one_of((2, 3, 4, 6)), self.size(4, 9)
        x = self.steps(time, features, masked=self.chance(0.3))
        x = self.convolution(features, time)(x)
        if self.chance(0.8):
            x = self.pooling(x.shape[1])(x)
        if self.chance(0.3):
            x = self.make("TimeDistributed", self.make("Dense", self.size(2, 4)))(x)
        return self.head(self.recurrent(sequences=False)(x))

    def convolved_twice(self) -> Any:
        """Convolutions one after the other, over an open time axis."""
        x = self.steps(self.size(6, 12), 4, fixed=False)
        for _ in range(2):
            x = self.convolution(x.shape[-1], 4)(x)
        return [self.make("Dense", self.size(1, 4))(x), self.make("GlobalMaxPooling1D")(x)]

    def resized(self) -> Any:
        """Sequences made longer and shorter, and turned."""
        features, time = self.size(1, 5), self.size(3, 6)
        x = self.steps(time, features, masked=self.chance(0.3))
        for kind in self.some_of(("crop", "pad", "repeat", "turn", "shape"), self.size(2, 4)):
            match kind:
                case "crop" if x.shape[1] > 2:
                    x = self.make("Cropping1D", self.one_of((1, (0, 1), (2, 0))))(x)
                case "repeat":
                    x = self.make("UpSampling1D", self.size(1, 3))(x)
                case "turn":
                    x = self.make("Permute", (2, 1))(x)
                case "shape":
                    x = self.make("Reshape", self.one_of(((-1, x.shape[1]), (x.shape[2], -1))))(x)
                case _:
                    x = self.make("ZeroPadding1D", self.one_of((1, (0, 2), (3, 1))))(x)
        return [x, self.head(self.recurrent(sequences=False)(x))]

    def scaled(self) -> Any:
        """Normalization, slopes and the like, on the way of a mask or not."""
        features, time = self.size(2, 6), self.size(3, 7)
        fixed = self.chance(0.6)
        x = self.steps(time, features, masked=self.chance(0.6), fixed=fixed)
        kinds = ("PReLU", "LeakyReLU", "ELU", "given", "adapted", "Rescaling", "UnitNormalization")
        for kind in self.some_of(kinds, self.size(2, 4)):
            x = self.scaling(kind, features, time if fixed else None)(x)
        return [self.recurrent(sequences=True)(x), self.make("GlobalAveragePooling1D")(x)]

    def dotted(self) -> Any:
        """Products of sequences and of vectors.

        A product of two vectors may cancel out to next to nothing, which says nothing of how well it was computed: it
        is looked at beside the vectors.
        """
        features = self.size(2, 5)
        first, second = self.steps(self.size(2, 5), features), self.steps(4, features, masked=self.chance(0.4))
        match self.one_of(("features", "time", "vectors", "mixed")):
            case "features":
                return self.make("Dot", axes=self.one_of((2, -1, (2, -1))), normalize=self.chance(0.4))([first, second])
            case "time":
                scores = self.make("Dot", axes=-1)([first, second])
                return self.make("Dot", axes=(2, 1))([self.make("Softmax")(scores), second])
            case "vectors":
                units = self.size(2, 5)
                pair = [self.lstm(sequences=False, units=units)(one) for one in (first, second)]
                product = self.make("Dot", axes=1, normalize=self.chance(0.5))(pair)
                return self.make("Concatenate")([product, *pair])
            case _:
                vector = self.lstm(sequences=False, units=features)(first)
                product = self.make("Dot", axes=(1, 2))([vector, second])
                return self.make("Concatenate")([product, vector])

    def merged(self) -> Any:
        """Two sequences, masked or not, merged in every way, and what a recurrent layer sees of the masks."""
        time, features = self.size(3, 6), self.size(2, 5)
        pair = [self.steps(time, features, masked=self.chance(0.6)) for _ in range(2)]
        outputs = []
        for kind in self.some_of(("Multiply", "Subtract", "Average", "Maximum", "Minimum", "Add", "Concatenate"), 3):
            outputs.append(self.make(kind)(pair))
            outputs.append(self.lstm(sequences=True, units=3, plain=True)(outputs[-1]))
        return outputs

    def attended(self) -> Any:
        """An encoder and a decoder with attention between them."""
        units = self.size(2, 5)
        source = self.steps(self.size(2, 6), self.size(1, 4), masked=self.chance(0.6))
        target = self.steps(self.size(2, 6), self.size(1, 4), masked=self.chance(0.6))
        encoded = self.lstm(sequences=True, units=units, plain=True)(source)
        decoded = self.lstm(sequences=True, units=units, plain=True)(target)
        inputs = [decoded, encoded]
        if self.chance(0.3):
            inputs.append(self.make("Dense", units)(encoded))
        call = {"use_causal_mask": True} if self.chance(0.3) else {}
        if self.has_scores and self.chance(0.3):
            context, scores = self.attention()(inputs, return_attention_scores=True, **call)
            return [self.make("Concatenate")([context, decoded]), scores]
        context = self.attention()(inputs, **call)
        return [context, self.head(self.recurrent(sequences=False)(context))]

    def multi_headed(self) -> Any:
        """Attention of several heads: of a sequence to itself, or to another one."""
        features = self.size(2, 6)
        x = self.steps(self.size(2, 6), features, masked=self.chance(0.6))
        other = x
        if self.chance(0.5):
            other = self.steps(self.size(2, 6), self.size(2, 6), masked=self.chance(0.6))
        options = {"output_shape": self.size(2, 5)} if self.chance(0.3) else {}
        if not self.is_keras_2 and self.keras.__version__.startswith("3.15") and self.chance(0.2):
            options["sliding_window"] = 2
        call: dict[str, Any] = {"use_causal_mask": True} if self.chance(0.3) else {}
        if self.chance(0.3):
            call["key"] = self.make("Dense", self.size(2, 5))(other)
        if self.chance(0.3):
            seen = self.random.random((BATCH, x.shape[1], other.shape[1])) < 0.7
            seen[:, :, 0] = True
            self.inputs.append(seen.astype(np.float32))
            call["attention_mask"] = self.input(seen.shape[1:])
        if self.has_scores and self.chance(0.25):
            y, scores = self.heads(**options)(x, other, return_attention_scores=True, **call)
            # Where nothing is seen, Keras 2 takes 1e9 off every score: in float64 that changes nothing.
            ends = [] if self.is_keras_2 else [scores]
            return [self.lstm(sequences=True, units=3, plain=True)(y), *ends]
        y = self.heads(**options)(x, other, **call)
        return self.lstm(sequences=True, units=3, plain=True)(y)

    def transformer(self) -> Any:
        """Blocks of attention with what goes past them, before a recurrent layer that sees the mask."""
        features = self.size(2, 6)
        x = self.steps(self.size(2, 6), features, masked=self.chance(0.7))
        for _ in range(self.size(1, 2)):
            attended = self.heads()(x, x)
            x = self.make("LayerNormalization", epsilon=1e-1)(self.make("Add")([x, attended]))
            x = self.make("Add")([x, self.make("Dense", features, activation="gelu")(x)])
        return self.head(self.recurrent(sequences=False)(x))


#: The themes, in the order in which they take turns.
FEEDFORWARD_THEMES = (
    "convolved", "attended", "resized", "multi_headed", "scaled", "dotted", "merged", "transformer", "convolved_twice",
)  # fmt: skip
