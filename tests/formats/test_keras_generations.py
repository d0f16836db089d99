"""Files of every generation of Keras give the framework's own numbers: models, weights alone, models in models."""

from __future__ import annotations

import functools
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import build_keras_generations
import h5py
import keras_support as made
import numpy as np
import pytest
from recorded import LARGEST_ERROR, LARGEST_RATIO, outcome

import lstm_engine as le
from lstm_engine.errors import FormatError, UnsafeFileError, UnsupportedModelError
from lstm_engine.formats.keras import read_keras
from lstm_engine.formats.keras_config import parse_model

DATA = Path(__file__).parent / "data" / "keras_generations"
WRITERS = sorted(path.name.removesuffix(".tar.xz") for path in DATA.glob("*.tar.xz"))


@functools.cache
def files_of(writer: str) -> dict[str, bytes]:
    """Return the files that one release of Keras wrote, by name."""
    with tarfile.open(DATA / f"{writer}.tar.xz") as archive:
        return {member.name: archive.extractfile(member).read() for member in archive.getmembers()}  # type: ignore[union-attr]


@functools.cache
def entries_of(writer: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(files_of(writer)["manifest.json"])["models"]
    return found


CASES = [(writer, place) for writer in WRITERS for place in range(len(entries_of(writer)))]


def in_words(case: tuple[str, int]) -> str:
    entry = entries_of(case[0])[case[1]]
    return "-".join(filter(None, (case[0], entry["file"], entry["config"])))


@pytest.fixture
def unpacked(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, np.ndarray], str | None]:
    writer, place = request.param
    entry, files = entries_of(writer)[place], files_of(writer)
    path = tmp_path / entry["file"]
    path.write_bytes(files[entry["file"]])
    with np.load(io.BytesIO(files[f"{entry['name']}.npz"])) as arrays:
        return path, dict(arrays), entry["config"] and files[entry["config"]].decode()


def inputs_of(arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [arrays[f"input_{place}"] for place in range(sum(key.startswith("input_") for key in arrays))]


@pytest.mark.parametrize("unpacked", CASES, indirect=True, ids=map(in_words, CASES))
def test_the_numbers_are_the_frameworks_own(unpacked: tuple[Path, dict[str, np.ndarray], str | None]) -> None:
    path, arrays, config = unpacked
    found = le.load(path, config=config)(*inputs_of(arrays))
    result = outcome(path.name, found if isinstance(found, tuple) else (found,), arrays)
    assert result.ours < LARGEST_ERROR, result
    assert result.ratio < LARGEST_RATIO, result


# --- The architecture of weights alone --------------------------------------------------------------------------------


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "w.h5"
    path.write_bytes(files_of("tf_keras-2.21.0")["nested.legacy.h5"])
    return path


ARCHITECTURE = files_of("tf_keras-2.21.0")["nested.json"].decode() if WRITERS else ""


def test_a_configuration_is_a_text_a_dict_or_a_file(weights: Path, tmp_path: Path) -> None:
    file = tmp_path / "architecture.json"
    file.write_text(ARCHITECTURE, encoding="utf-8")
    x = [np.ones((2, 5, 3), np.float32), np.ones((2, 5, 3), np.float32)]
    results = [
        le.load(weights, config=config)(*x) for config in (ARCHITECTURE, json.loads(ARCHITECTURE), file, str(file))
    ]
    for result in results[1:]:
        assert all(np.array_equal(one, two) for one, two in zip(result, results[0], strict=True))


def test_weights_alone_say_that_they_need_a_configuration(weights: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"w\.h5: .*weights alone.*config='model.json'"):
        le.load(weights)


def test_a_whole_model_takes_no_configuration(tmp_path: Path) -> None:
    for name in ("nested.keras", "nested.h5"):
        (tmp_path / name).write_bytes(files_of("tf_keras-2.21.0")[name])
        with pytest.raises(UnsupportedModelError, match=f"{name}: config: expected none"):
            le.load(tmp_path / name, config=ARCHITECTURE)
    np.savez(tmp_path / "x.npz", x=np.ones(3))
    with pytest.raises(UnsupportedModelError, match=r"x\.npz: config: expected none but for a Keras file"):
        le.load(tmp_path / "x.npz", config=ARCHITECTURE)


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (3, UnsupportedModelError, "config: expected the path of a JSON file, a JSON text or a dict, found int"),
        ({"class_name": {1, 2}}, UnsupportedModelError, "config: expected plain JSON values"),
        ("{", FormatError, "config: expected JSON"),
        (
            '{"class_name": "Sequential", "class_name": "Model"}',
            UnsafeFileError,
            "config: the key 'class_name' stands twice",
        ),
        ("no_such_file.json", FileNotFoundError, "no_such_file"),
        ({}, FormatError, "config: expected the configuration of a Keras model"),
        ({"class_name": "Sequential", "config": [], "keras_version": [2]}, FormatError, "keras_version"),
        (
            {"class_name": "Sequential", "config": [{"class_name": "Lambda", "config": {"name": "evil"}}]},
            UnsafeFileError,
            "config: layer 'evil' holds Python code",
        ),
    ],
)
def test_bad_configurations(weights: Path, config: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        le.load(weights, config=config)


def test_weights_of_another_model_are_refused(weights: Path, tmp_path: Path) -> None:
    other = files_of("tf_keras-2.21.0")["hard.json"].decode()
    with pytest.raises(FormatError, match="expected the weights of 2 layers"):
        le.load(weights, config=other)
    path = tmp_path / "other.h5"
    path.write_bytes(files_of("keras-3.15.1")["nested.weights.h5"])
    with pytest.raises(FormatError, match="belong to no layer"):
        le.load(path, config=files_of("keras-3.15.1")["hard.json"].decode())


def test_the_version_comes_from_wherever_it_stands(weights: Path, tmp_path: Path) -> None:
    assert read_keras(weights, ARCHITECTURE).version == "2.21.0"
    unversioned = {key: value for key, value in json.loads(ARCHITECTURE).items() if key != "keras_version"}
    assert read_keras(weights, unversioned).version == "2.21.0"  # the weights' own
    path = tmp_path / "3.weights.h5"
    path.write_bytes(files_of("keras-3.15.1")["hard.weights.h5"])
    model = read_keras(path, files_of("keras-3.15.1")["hard.json"].decode())
    assert model.version == "3.4 or later"
    assert "Keras's version" in model.inferred[0]
    path.write_bytes(files_of("tf_keras-2.21.0")["hard.weights.h5"])
    unversioned = {
        key: value
        for key, value in json.loads(files_of("tf_keras-2.21.0")["hard.json"]).items()
        if key != "keras_version"
    }
    assert read_keras(path, unversioned).version == "2.4 or later"


# --- Nested models ----------------------------------------------------------------------------------------------------


def test_the_layers_of_a_nested_model_are_the_models_own(tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    path.write_bytes(files_of("keras-3.15.1")["nested.keras"])
    model = read_keras(path)
    names = {layer.name for layer in model.layers}
    assert {"inner/deep/dense", "inner/deep/batch_normalization"} <= {name.rstrip("_0123456789") for name in names}
    inside = next(layer for layer in model.layers if layer.name.startswith("inner/lstm"))
    assert len(inside.calls) == 2
    assert inside.sources["kernel"].startswith("layers/functional/layers/lstm")
    assert [layer.class_name for layer in model.layers if layer.name.startswith("tail/")] == ["Bidirectional"]
    # Nothing is left of the masks that Keras 3 records, nor of what stood for them.
    assert not [layer.name for layer in model.layers if layer.class_name in ("NotEqual", "Any", "Activation")]


def nested(name: str, layers: list[Any], *inbound: Any) -> dict[str, Any]:
    """Return the configuration of a Sequential in a layer's place."""
    entry = made.sequential(layers)
    return {**entry, "config": {**entry["config"], "name": name}, "name": name, "inbound_nodes": list(inbound)}


def around(*layers: dict[str, Any]) -> dict[str, Any]:
    return made.functional([made.source("x"), *layers], ["x", 0, 0], [layers[-1]["name"], 0, 0])


def test_code_in_a_nested_model_is_refused_by_name() -> None:
    inner = nested("inner", [made.source("i"), made.layer("Lambda", "evil")], made.call(made.tensor("x")))
    with pytest.raises(UnsafeFileError, match="layer 'inner': layer 'evil' holds Python code"):
        parse_model(around(inner), "config.json")


def test_what_is_wrong_with_a_nested_model_is_told_with_all_else() -> None:
    inner = nested("inner", [made.source("i"), made.layer("Mine", "a", module="mine")], made.call(made.tensor("x")))
    tree = around(inner, made.layer("Yours", "b", [made.call(made.tensor("inner"))]))
    with pytest.raises(UnsupportedModelError, match=r"(?s)2 problems.*layer 'inner': layer 'a'.*layer 'b'"):
        parse_model(tree, "config.json")


def test_models_that_call_each_other_without_end_are_refused() -> None:
    """Twenty models, each with two calls of the next: a million calls out of a few kilobytes."""
    inside = made.layer("Dense", "dense", [made.call(made.tensor("x"))], units=1)
    model = around(inside)
    for depth in range(20):
        name = f"m{depth}"
        calls = [made.call(made.tensor("x")), made.call(made.tensor(name))]
        model = made.functional(
            [made.source("x"), {**model, "name": name, "inbound_nodes": calls}], ["x", 0, 0], [name, 2, 0]
        )
        model["config"]["layers"][1]["config"]["name"] = name
    with pytest.raises(UnsafeFileError, match="models inside of models call each other too often"):
        parse_model(model, "config.json")


def test_names_that_nesting_makes_equal_are_refused() -> None:
    inner = nested("a", [made.source("i"), made.layer("Dense", "b", units=1)], made.call(made.tensor("x")))
    tree = around(inner, made.layer("Dense", "a/b", [made.call(made.tensor("a"))], units=1))
    with pytest.raises(FormatError, match="expected one layer of the name 'a/b', found 2"):
        parse_model(tree, "config.json")


def test_a_nested_model_is_given_as_many_inputs_as_it_has() -> None:
    two = made.call([made.tensor("x"), made.tensor("x")])
    inner = nested("inner", [made.source("i"), made.layer("Dense", "d", units=1)], two)
    with pytest.raises(FormatError, match=r"layer 'inner' \(Sequential\), call 0: expected one input, found 2"):
        parse_model(around(inner), "config.json")


# --- Older generations ------------------------------------------------------------------------------------------------


def test_what_keras_1_could_and_we_cannot_is_refused() -> None:
    layers = [
        {
            "class_name": "InputLayer",
            "config": {"name": "x", "batch_input_shape": [None, 5, 3], "input_dtype": "float32"},
        },
        {"class_name": "Highway", "config": {"name": "a", "trainable": True}},
        {"class_name": "Merge", "config": {"name": "b", "mode": "cos", "trainable": True}},
    ]
    with pytest.raises(UnsupportedModelError, match=r"(?s)2 problems.*'Highway'.*'Merge'"):
        parse_model({"class_name": "Sequential", "config": layers}, "config.json", "1.2.2")


def test_kernels_of_gates_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "k.h5"
    path.write_bytes(files_of("tf_keras-2.21.0")["keras_1.h5"])
    with h5py.File(path, "r+") as file:
        group = file["model_weights/lstm_1"]
        name = group.attrs["weight_names"][3]
        del group[name]
        group[name] = np.zeros((4, 6), np.float32)
    with pytest.raises(FormatError, match=r"layer 'lstm_1' \(LSTM\): kernel: expected shape \(features, 20\), found"):
        le.load(path)


def test_the_gates_of_a_gru_of_keras_1_stand_in_their_places(tmp_path: Path) -> None:
    """No framework at hand reads such a file; the equations of Keras 1 say what has to come out."""
    random, path = np.random.default_rng(0), tmp_path / "gru.h5"
    gates = build_keras_generations._by_gates(random, "g", "zrh", 4, 3)
    gru = build_keras_generations._keras_1_rnn("GRU", "g", 3, 4, batch_input_shape=[None, 5, 4])
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": [gru]})
        file.create_group("model_weights").attrs["layer_names"] = [b"g"]
        group = file["model_weights"].create_group("g")
        group.attrs["weight_names"] = [name.encode() for name, _ in gates]
        for name, array in gates:
            group[name] = array
    weights = {name.removeprefix("g_"): array.astype(np.float64) for name, array in gates}
    x, h = random.standard_normal((2, 5, 4)).astype(np.float32), np.zeros((2, 3))
    for step in x.swapaxes(0, 1).astype(np.float64):
        z, r = (
            np.clip(0.2 * (step @ weights[f"W_{gate}"] + h @ weights[f"U_{gate}"] + weights[f"b_{gate}"]) + 0.5, 0, 1)
            for gate in "zr"
        )
        candidate = np.tanh(step @ weights["W_h"] + (r * h) @ weights["U_h"] + weights["b_h"])
        h = z * h + (1 - z) * candidate
    np.testing.assert_allclose(le.load(path)(x), h, rtol=1e-5, atol=1e-6)


def test_npz_weights_of_keras_3_are_told_from_arrays(tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    path.write_bytes(files_of("keras-3.15.1")["variables.npz.keras"])
    with pytest.raises(UnsafeFileError, match=r"variables of Keras 3"):
        le.load(path)


def test_an_lstm_is_taken_out_of_a_nested_model(tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    path.write_bytes(files_of("keras-3.15.1")["sequences_of_models.keras"])
    with pytest.raises(UnsupportedModelError, match=r"'first/lstm\w*' \(LSTM\)") as caught:
        le.LSTM.from_keras(path)
    name = str(caught.value).split("'first/")[1].split("'")[0]
    assert le.LSTM.from_keras(path, layer=f"first/{name}").hidden_size == 4


def test_a_stream_goes_through_nested_models(tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    path.write_bytes(files_of("keras-3.15.1")["sequences_of_models.keras"])
    model = le.load(path)
    x = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    stream = model.stream()
    last = [stream.step(step) for step in x][-1]
    assert np.array_equal(last, model(x[None])[0])
