"""The calls of Milvus: rows as entities of a collection, one for each head."""

from __future__ import annotations

import importlib
import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bmojo.storage.errors import StorageError
from bmojo.storage.protocol import Found, Rows, Stream

__all__ = ["Collection", "collection_name", "connect", "shapes_in"]

FIELDS = ("ordinal", "position", "key", "value")


def connect(uri: str, token: str, timeout: float) -> Any:
    """A client of Milvus; a path is a local file of Milvus Lite.

    Parameters
    ----------
    uri : str
    token : str
    timeout : float
        Seconds.

    Raises
    ------
    ImportError
        If the client is not installed.
    """
    try:
        milvus: Any = importlib.import_module("pymilvus")
    except ModuleNotFoundError:
        raise ImportError("MilvusStore needs a client: pip install 'realization[milvus]'") from None
    return milvus.MilvusClient(uri, token=token, timeout=timeout)


class Collection:
    r"""Rows of one shape in a collection of Milvus.

    An entity is one head of one row. Its primary key is layer, entry, head and ordinal, so that a row that is
    sent twice is there once.

    Parameters
    ----------
    client : MilvusClient
        Or anything with its methods.
    name : str
    shape : tuple of int
        Heads `G`, key width `d`, value width `d_v`.
    half : bool
        Keys and values as float16; else float32, which takes twice the room.
    index : dict
        Of the keys: `index_type`, `metric_type` and `params`, as Milvus names them.
    timeout : float
        Seconds for each call.
    consistency : str
        As Milvus names it: `"Strong"` finds all that was sent.
    """

    def __init__(
        self,
        client: Any,
        name: str,
        shape: tuple[int, int, int],
        *,
        half: bool,
        index: dict[str, Any],
        timeout: float,
        consistency: str,
    ) -> None:
        self.client, self.shape, self.timeout, self.consistency = client, shape, timeout, consistency
        self.name = collection_name(name, shape)
        if not client.has_collection(self.name, timeout=timeout):
            self._create(half, index)
        client.load_collection(
            self.name, timeout=timeout
        )  # a server that was started anew has it not at hand
        fields = client.describe_collection(self.name, timeout=timeout)["fields"]
        kinds = {field["name"]: int(field["type"]) for field in fields}
        if not set(FIELDS) <= set(kinds):
            raise StorageError(
                f"the collection {self.name} of Milvus is another one's; name one of your own."
            )
        self.kind = np.float16 if kinds["key"] == self._types().FLOAT16_VECTOR else np.float32

    def upsert(self, stream: Stream, rows: Rows, batch: int) -> None:
        """Send rows, `batch` entities at a time."""
        entities = [
            {
                "id": f"{stream.layer}/{stream.entry}/{head}/{rows.first + row}",
                "stream": _number(stream),
                "head": head,
                "ordinal": rows.first + row,
                "position": int(rows.positions[row]),
                "key": rows.keys[row, head].astype(self.kind),
                "value": rows.values[row, head].astype(self.kind),
            }
            for row in range(len(rows))
            for head in range(rows.shape[0])
        ]
        for low in range(0, len(entities), batch):
            self.client.upsert(self.name, entities[low : low + batch], timeout=self.timeout)

    def delete(self, stream: Stream, first: int) -> None:
        """Forget the rows of a stream from the ordinal `first` on."""
        self.client.delete(self.name, filter=_filter(stream, low=first), timeout=self.timeout)

    def count(self, stream: Stream) -> int:
        """Rows of a stream."""
        found = self.client.query(
            self.name,
            filter=_filter(stream, head=0),
            output_fields=["count(*)"],
            timeout=self.timeout,
            consistency_level=self.consistency,
        )
        return int(found[0]["count(*)"])

    def fetch(self, stream: Stream, low: int, high: int) -> Rows:
        """The rows with ordinals from `low` on and below `high`."""
        heads, key_width, value_width = self.shape
        found = self.client.query(
            self.name,
            filter=_filter(stream, low=low, high=high),
            output_fields=["head", *FIELDS],
            timeout=self.timeout,
            consistency_level=self.consistency,
        )
        count = len({entity["ordinal"] for entity in found})
        keys = np.zeros((count, heads, key_width), np.float16)
        values = np.zeros((count, heads, value_width), np.float16)
        positions = np.zeros(count, np.int64)
        for entity in found:
            row, head = entity["ordinal"] - low, entity["head"]
            if not (0 <= row < count and 0 <= head < heads):
                raise StorageError(
                    f"the collection {self.name} lacks rows of {stream} from {low} to {high - 1}."
                )
            keys[row, head] = self._vector(entity["key"])
            values[row, head] = self._vector(entity["value"])
            positions[row] = entity["position"]
        return Rows(low, keys, values, positions)

    def search(self, stream: Stream, queries: Tensor, count: int, limit: int) -> Found:
        """The rows of largest product with each query (n, H, d) of float32, below the ordinal `limit`."""
        groups, key_width, value_width = self.shape
        n, heads, _ = queries.shape
        group = heads // groups
        ordinals = torch.full((n, heads, count), -1)
        positions = ordinals.clone()
        keys = torch.zeros(n, heads, count, key_width, dtype=torch.float16)
        values = torch.zeros(n, heads, count, value_width, dtype=torch.float16)
        asked = queries.numpy().astype(self.kind)
        for head in range(groups if n and limit else 0):
            part = asked[:, head * group : (head + 1) * group].reshape(-1, key_width)
            answers = self.client.search(
                self.name,
                data=list(part),
                anns_field="key",
                filter=_filter(stream, head=head, high=limit),
                limit=count,
                output_fields=list(FIELDS),
                timeout=self.timeout,
                consistency_level=self.consistency,
            )
            for number, answer in enumerate(answers):
                place = number // group, head * group + number % group
                for rank, hit in enumerate(answer):
                    entity = hit["entity"]
                    ordinals[(*place, rank)] = entity["ordinal"]
                    positions[(*place, rank)] = entity["position"]
                    keys[(*place, rank)] = torch.from_numpy(self._vector(entity["key"]))
                    values[(*place, rank)] = torch.from_numpy(self._vector(entity["value"]))
        scores = (keys.float() @ queries.unsqueeze(-1)).squeeze(-1).masked_fill(ordinals < 0, -torch.inf)
        return Found(scores, ordinals, positions, keys, values)

    def _vector(self, value: Any) -> Any:
        """A vector as Milvus gives it: numbers, or their bytes."""
        if isinstance(value, list) and len(value) == 1 and isinstance(value[0], bytes):
            value = value[0]
        if isinstance(value, bytes):
            return np.frombuffer(value, self.kind).astype(np.float16)
        return np.asarray(value).astype(np.float16)

    def _types(self) -> Any:
        return importlib.import_module("pymilvus").DataType

    def _create(self, half: bool, index: dict[str, Any]) -> None:
        types = self._types()
        vector = types.FLOAT16_VECTOR if half else types.FLOAT_VECTOR
        schema = self.client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", types.VARCHAR, is_primary=True, max_length=64)
        for name in ("stream", "head", "ordinal", "position"):
            schema.add_field(name, types.INT64)
        schema.add_field("key", vector, dim=self.shape[1])
        schema.add_field("value", vector, dim=self.shape[2])
        indices = self.client.prepare_index_params()
        indices.add_index("key", **index)
        indices.add_index("value", index_type="FLAT", metric_type="IP")  # every vector field needs one
        self.client.create_collection(
            self.name, schema=schema, index_params=indices, timeout=self.timeout, consistency_level="Strong"
        )


def collection_name(prefix: str, shape: tuple[int, int, int]) -> str:
    """Name of the collection for rows of a shape: heads, key width, value width."""
    return "_".join([prefix, *map(str, shape)])


def shapes_in(client: Any, prefix: str, timeout: float) -> list[tuple[int, int, int]]:
    """Shapes of the rows that a server has collections for."""
    names = client.list_collections(timeout=timeout)
    matches = [re.fullmatch(re.escape(prefix) + r"_(\d+)_(\d+)_(\d+)", name) for name in names]
    return [(int(found[1]), int(found[2]), int(found[3])) for found in matches if found]


def _number(stream: Stream) -> int:
    return stream.layer << 20 | stream.entry


def _filter(
    stream: Stream, *, head: int | None = None, low: int | None = None, high: int | None = None
) -> str:
    terms = [f"stream == {_number(stream)}"]
    terms += [] if head is None else [f"head == {head}"]
    terms += [] if low is None else [f"ordinal >= {low}"]
    terms += [] if high is None else [f"ordinal < {high}"]
    return " and ".join(terms)
