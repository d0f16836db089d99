"""Attention: numbers to check by hand, masks of every origin, and what a step gets that sees nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from described import input_layer, layer, model, random, softmax

from lstm_engine.builder import build_model
from lstm_engine.description import LayerDescription, TensorRef
from lstm_engine.errors import FormatError, ShapeError, UnsupportedModelError

QUERY, VALUE = random(1, 2, 3, 4), random(2, 2, 5, 4)
#: The first step always counts.
QUERY_MASK = np.array([[1, 1, 1], [1, 0, 1]], bool)
VALUE_MASK = np.array([[1, 0, 1, 1, 0], [1, 1, 1, 1, 1]], bool)


def masked(x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.where(mask[..., None], x, 0).astype(np.float32)


def attend(
    class_name: str,
    inputs: Sequence[np.ndarray] = (QUERY, VALUE),
    *,
    arguments: Sequence[str] = ("query", "value"),
    masking: Sequence[str] = (),
    weights: Any = None,
    inner: Any = None,
    version: str = "3.15.1",
    **config: Any,
) -> Any:
    """Return all outputs of an attention layer; the inputs of the names in ``masking`` go through a Masking layer."""
    layers = [input_layer(name, *x.shape[1:]) for name, x in zip(arguments, inputs, strict=True)]
    layers += [layer(f"{name}_masked", "Masking", name, config={"mask_value": 0.0}) for name in masking]
    names = [f"{name}_masked" if name in masking else name for name in arguments]
    options = {"call_arguments": list(arguments), **config}
    layers.append(layer("layer", class_name, *names, config=options, weights=weights, inner=inner))
    outputs = [TensorRef("layer", 0, place) for place in range(2 if config.get("return_attention_scores") else 1)]
    return build_model(model(*layers, outputs=outputs, version=version))(*inputs)


def close(found: Any, wanted: Any) -> None:
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=3e-6, atol=1e-6)


# --- Without weight matrices ------------------------------------------------------------------------------------------


def test_attention_by_hand() -> None:
    # Scores 0 and log 3: weights 1/4 and 3/4.
    query = np.array([[[1.0, 0.0]]], np.float32)
    value = np.array([[[0.0, 4.0], [np.log(3.0), 8.0]]], np.float32)
    y, weights = attend("Attention", (query, value), return_attention_scores=True)
    close(weights, [[[0.25, 0.75]]])
    close(y, [[[0.75 * np.log(3.0), 7.0]]])
    # tanh(1) and tanh(1 + 1), summed with the weights 2 and 3.
    ones = np.ones((1, 1, 2), np.float32)
    pair = np.array([[[0.0, 0.0], [0.0, 1.0]]], np.float32)
    scale = np.array([2.0, 3.0], np.float32)
    _, weights = attend("AdditiveAttention", (ones, pair), return_attention_scores=True, weights={"scale": scale})
    close(weights, [softmax(np.array([[5 * np.tanh(1), 2 * np.tanh(1) + 3 * np.tanh(2)]]))])


SCALE, CONCAT = np.float32(0.7), np.float32(-1.3)


@pytest.mark.parametrize("use_scale", [False, True])
@pytest.mark.parametrize("kind", ["dot", "concat", "additive"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masking", [(), ("query",), ("value",), ("query", "value")])
def test_dense_attention(use_scale: bool, kind: str, causal: bool, masking: tuple[str, ...]) -> None:
    query, value, key = masked(QUERY, QUERY_MASK), masked(VALUE, VALUE_MASK), random(3, 2, 5, 4)
    q, k = query.astype(np.float64)[:, :, None], key.astype(np.float64)[:, None]
    weights: dict[str, Any] = {}
    options: dict[str, Any] = {"use_scale": use_scale, "dropout": 0.2, "use_causal_mask": causal}
    if kind == "additive":
        scale = random(4, 4)
        weights = {"scale": scale} if use_scale else {}
        scores = (np.tanh(q + k) * (scale if use_scale else 1)).sum(-1)
    else:
        options["score_mode"] = kind
        scale = SCALE if use_scale else np.float32(1)
        weights = {"scale": np.asarray(SCALE)} if use_scale else {}
        scores = (q * k).sum(-1) * scale
        if kind == "concat":
            weights["concat_score_weight"] = np.asarray(CONCAT)
            scores = CONCAT * np.tanh(scale * (q + k)).sum(-1)
    seen = np.ones((2, 3, 5), bool)
    if "value" in masking:
        seen &= VALUE_MASK[:, None]
    if causal:
        seen &= np.tri(3, 5, dtype=bool)
    wanted = softmax(np.where(seen, scores, -1e9))
    y = wanted @ value
    if "query" in masking:
        y = np.where(QUERY_MASK[..., None], y, 0)
    found, found_scores = attend(
        "AdditiveAttention" if kind == "additive" else "Attention", (query, value, key),
        arguments=("query", "value", "key"), masking=masking, weights=weights, return_attention_scores=True, **options,
    )  # fmt: skip
    close(found, y)
    close(found_scores, wanted)


def test_masks_that_are_given_stand_in_for_those_that_travel_along() -> None:
    query, value = masked(QUERY, QUERY_MASK), masked(VALUE, VALUE_MASK)
    other = np.array([[0, 1, 1, 1, 1], [0, 0, 1, 1, 0]], np.float32)
    found = attend(
        "Attention", (query, value, other), arguments=("query", "value", "value_mask"), masking=("query", "value")
    )
    scores = np.where(other[:, None] != 0, query.astype(np.float64) @ value.swapaxes(1, 2), -np.inf)
    close(found, np.where(QUERY_MASK[..., None], softmax(scores) @ value, 0))


def test_a_step_that_sees_nothing_sees_everything_as_far_as_float32_tells() -> None:
    # 1e9 less for every score: what is left of their differences is a multiple of 64.
    found = attend("Attention", (QUERY, np.zeros_like(VALUE)), masking=("value",), return_attention_scores=True)[1]
    close(found, np.full((2, 3, 5), 0.2))


# --- Several heads ----------------------------------------------------------------------------------------------------

HEADS, KEY, SIZE, WIDTH = 2, 3, 5, 6
KERNELS = {
    "query": random(10, 4, HEADS, KEY),
    "key": random(11, 4, HEADS, KEY),
    "value": random(12, 4, HEADS, SIZE),
    "output": random(13, HEADS, SIZE, WIDTH),
}
BIASES = {
    "query": random(14, HEADS, KEY),
    "key": random(15, HEADS, KEY),
    "value": random(16, HEADS, SIZE),
    "output": random(17, WIDTH),
}


def heads(*inputs: np.ndarray, use_bias: bool = True, **options: Any) -> Any:
    inner = {
        f"{role}_dense": LayerDescription(
            f"layer/{role}", "EinsumDense", {},
            {"kernel": KERNELS[role], **({"bias": BIASES[role]} if use_bias else {})},
        )
        for role in KERNELS
    }  # fmt: skip
    return attend("MultiHeadAttention", inputs or (QUERY, VALUE), inner=inner, use_bias=use_bias, **options)


def expected_heads(query: Any, value: Any, key: Any, seen: Any, use_bias: bool = True) -> tuple[Any, Any]:
    """Return the output and the weights, in float64 and by einsum, as Keras documents the layer."""

    def projected(role: str, x: Any) -> Any:
        bias = BIASES[role] if use_bias else np.zeros_like(BIASES[role])
        return np.einsum("btf,fhd->bhtd", x.astype(np.float64), KERNELS[role]) + bias[:, None, :]

    scores = np.einsum("bhtd,bhsd->bhts", projected("query", query), projected("key", key)) / np.sqrt(KEY)
    weights = softmax(np.where(np.broadcast_to(seen, scores.shape), scores, -1e30))
    y = np.einsum("bhts,bhsd->bthd", weights, projected("value", value))
    return np.einsum("bthd,hdo->bto", y, KERNELS["output"]) + (BIASES["output"] if use_bias else 0.0), weights


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("causal", [False, True])
def test_several_heads(use_bias: bool, causal: bool) -> None:
    seen = np.tri(3, 5, dtype=bool) if causal else np.ones((3, 5), bool)
    wanted, weights = expected_heads(QUERY, VALUE, VALUE, seen, use_bias)
    close(heads(use_bias=use_bias, use_causal_mask=causal), wanted)
    found = heads(use_bias=use_bias, use_causal_mask=causal, return_attention_scores=True)
    close(found[0], wanted)
    close(found[1], weights)


def test_all_masks_count_together() -> None:
    query, value = masked(QUERY, QUERY_MASK), masked(VALUE, VALUE_MASK)
    key = masked(random(3, 2, 5, 4), np.array([[1, 1, 1, 0, 1], [1, 1, 0, 1, 1]], bool))
    given = (random(5, 2, 3, 5) < 0.5).astype(np.float32)
    given[:, :, 0] = 1
    found = heads(
        query, value, key, given, arguments=("query", "value", "key", "attention_mask"),
        masking=("query", "value", "key"), use_causal_mask=True, sliding_window=2,
    )  # fmt: skip
    near = np.abs(np.arange(3)[:, None] - np.arange(5)) < 2
    seen = (given != 0) & np.tri(3, 5, dtype=bool) & near
    seen &= VALUE_MASK[:, None] & (key != 0).any(-1)[:, None] & QUERY_MASK[:, :, None]
    wanted, _ = expected_heads(query, value, key, seen[:, None])
    rows = seen.any(-1)
    assert rows.any()
    close(found[rows], wanted[rows])
    # A mask of its own for each head, which is the same for both.
    again = heads(query, value, np.repeat(given[:, None], HEADS, 1), arguments=("query", "value", "attention_mask"))
    close(again, expected_heads(query, value, value, given[:, None] != 0)[0])


@pytest.mark.parametrize(
    ("version", "dropout", "scores"),
    [("3.15.1", 0.0, False), ("3.15.1", 0.3, False), ("3.15.1", 0.0, True), ("3.8.0", 0.0, False),
     ("3.9.2", 0.3, False), ("3.5.0", 0.0, False), ("2.15.0", 0.0, False)],
)  # fmt: skip
def test_what_a_step_gets_that_sees_nothing(version: str, dropout: float, scores: bool) -> None:
    query = np.zeros_like(QUERY)
    query[:, 0] = QUERY[:, 0]
    found = heads(query, VALUE, masking=("query",), version=version, dropout=dropout, return_attention_scores=scores)
    y = found[0] if scores else found
    seen = np.ones((2, 1, 3, 5), bool)
    seen[:, :, 1:] = False
    mean, _ = expected_heads(query, VALUE, VALUE, seen)
    nothing = version == "3.15.1" and (dropout > 0 or scores)
    close(y[:, 0], mean[:, 0])
    close(y[:, 1:], np.broadcast_to(BIASES["output"], (2, 2, WIDTH)) if nothing else mean[:, 1:])
    if scores:
        assert (found[1][:, :, 1:] == 0).all()


def test_rows_of_a_batch_have_the_same_bits_alone() -> None:
    query, value = random(1, 5, 7, 4), random(2, 5, 6, 4)
    for found, alone in (
        (heads(query, value), heads(query[3:4], value[3:4])),
        (attend("Attention", (query, value)), attend("Attention", (query[3:4], value[3:4]))),
        (attend("AdditiveAttention", (query, value), use_scale=False),
         attend("AdditiveAttention", (query[3:4], value[3:4]), use_scale=False)),
    ):  # fmt: skip
        np.testing.assert_array_equal(found[3:4], alone)


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4)])
def test_empty_batches_and_queries(shape: tuple[int, ...]) -> None:
    value = VALUE[: shape[0]]
    assert heads(np.zeros(shape, np.float32), value).shape == (*shape[:2], WIDTH)
    assert attend("Attention", (np.zeros(shape, np.float32), value)).shape == shape


def test_values_without_a_step_give_zeros() -> None:
    assert (attend("Attention", (QUERY, VALUE[:, :0])) == 0).all()
    close(heads(QUERY, VALUE[:, :0]), np.broadcast_to(BIASES["output"], (2, 3, WIDTH)))


# --- What is refused --------------------------------------------------------------------------------------------------


def test_inputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(FormatError, match=r"'layer' \(Attention\): its inputs have the shapes \(4,\) and \(3,\)"):
        attend("Attention", (QUERY, VALUE[..., :3]))
    with pytest.raises(FormatError, match=r"its query kernel has shape \(4, 2, 3\), its query \(None, 3, 2\)"):
        heads(QUERY[..., :2], VALUE)
    with pytest.raises(FormatError, match=r"its scale has shape \(3,\)"):
        attend("AdditiveAttention", weights={"scale": random(1, 3)})
    with pytest.raises(UnsupportedModelError, match=r"a query of shape \(None, 1, 3, 4\) is not supported"):
        attend("Attention", (QUERY[:, None], VALUE))
    with pytest.raises(FormatError, match="expected to be called on a query and a value"):
        attend("Attention", (QUERY, VALUE), call_arguments=["query", "query"])
    with pytest.raises(FormatError, match="expected inputs for query, value, key, found 2"):
        attend("Attention", (QUERY, VALUE), call_arguments=["query", "value", "key"])
    mask = np.ones((2, 3, 4), np.float32)
    with pytest.raises(ShapeError, match=r"mask of layer: expected a shape that fits scores of \(2, 2, 3, 5\)"):
        heads(QUERY, VALUE, mask, arguments=("query", "value", "attention_mask"))


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"use_gate": True}, "use_gate=True"),
        ({"flash_attention": True}, "flash_attention=True"),
        ({"softmax_robust_masking": True}, "softmax_robust_masking=True"),
        ({"attention_axes": [1, 2]}, "attention_axes="),
        ({"rotary": 4}, "rotary=4"),
    ],
)
def test_options_that_are_not_implemented_are_named(config: Any, named: str) -> None:
    with pytest.raises(UnsupportedModelError, match=rf"'layer' \(MultiHeadAttention\).*{named}"):
        heads(**config)


def test_a_window_of_nothing_is_refused() -> None:
    with pytest.raises(FormatError, match="expected sliding_window to be a positive whole number, found 0"):
        heads(sliding_window=0)


def test_a_score_mode_that_is_not_known_is_named() -> None:
    with pytest.raises(UnsupportedModelError, match="score_mode='cosine'"):
        attend("Attention", score_mode="cosine")
