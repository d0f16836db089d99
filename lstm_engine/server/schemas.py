"""The JSON of the Open Inference Protocol as pydantic models: what OpenAPI says of requests and answers.

Requests of inference are read by ``protocol.py``, which takes a tenth of the time for large tensors; these models
describe the same.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "Failure",
    "InferenceRequestBody",
    "InferenceResponseBody",
    "Liveness",
    "ModelMetadata",
    "ModelState",
    "Readiness",
    "ServerMetadata",
    "TensorMetadata",
]

Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BF16"
]


class _Body(BaseModel):
    model_config = ConfigDict(protected_namespaces=())


class Failure(_Body):
    """Why a request was not answered."""

    error: str = Field(description="What was expected, what was found, and what to do.")


class ServerMetadata(_Body):
    """What this server is."""

    name: str
    version: str
    extensions: list[str]


class Liveness(_Body):
    """Whether the server runs."""

    live: bool


class Readiness(_Body):
    """Whether calls should be sent here."""

    ready: bool


class TensorMetadata(_Body):
    """An input or output of a model."""

    name: str
    datatype: Datatype
    shape: list[int] = Field(description="-1 for a size that the request decides.")


class ModelMetadata(_Body):
    """What a model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ModelState(_Body):
    """A version of a model, and whether it is served."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str = Field(description="Why it, or a newer content of its file, is not served; empty for nothing wrong.")


class InputTensor(_Body):
    """A tensor of a request."""

    name: str
    shape: list[int] = Field(description="The size of each axis.")
    datatype: Datatype
    parameters: dict[str, Any] | None = Field(
        default=None, description="binary_data_size: bytes of the tensor behind the JSON, in place of data."
    )
    data: list[Any] | None = Field(
        default=None,
        description='The values, in one list or nested as the shape is. NaN and infinities are the texts "NaN", '
        '"Infinity" and "-Infinity".',
    )


class WantedOutput(_Body):
    """An output that is asked for."""

    name: str
    parameters: dict[str, Any] | None = Field(
        default=None, description="binary_data: whether it is to come as binary data."
    )


class InferenceRequestBody(_Body):
    """What a model is asked to compute."""

    id: str | None = Field(default=None, description="Repeated in the answer.")
    parameters: dict[str, Any] | None = Field(
        default=None,
        description="binary_data_output: whether outputs are to come as binary data where they do not say. timeout: "
        "microseconds in which the answer is of use.",
    )
    inputs: list[InputTensor]
    outputs: list[WantedOutput] | None = Field(default=None, description="All outputs where none are named.")


class OutputTensor(_Body):
    """A tensor of an answer."""

    name: str
    datatype: Datatype
    shape: list[int]
    parameters: dict[str, Any] | None = Field(
        default=None, description="binary_data_size: bytes of the tensor behind the JSON, in place of data."
    )
    data: list[Any] | None = Field(default=None, description="The values in one list, row by row.")


class InferenceResponseBody(_Body):
    """What a model has computed."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]
