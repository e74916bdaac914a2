"""A client with the methods of Milvus that the store calls, in this process, that fails on demand."""

from __future__ import annotations

import re
import threading

import numpy as np

FLOAT16_VECTOR, FLOAT_VECTOR = 102, 101  # as Milvus numbers its types


class Schema(list):
    """Fields of a collection, as they are added."""

    def add_field(self, name, kind, **options):
        self.append({"name": name, "type": int(kind), **options})


class Indices(list):
    """Indices of a collection, as they are added."""

    def add_index(self, field, **options):
        self.append((field, options))


class FakeMilvus:
    """Collections in a dictionary.

    `faults` is asked before each call that changes or reads rows: `None` lets it pass; `"before"` fails it,
    `"after"` does it and loses the answer, `"half"` does half of it and fails.
    """

    def __init__(self, faults=lambda: None):
        self.faults, self.collections, self.lock = faults, {}, threading.Lock()
        self.calls = 0

    def create_schema(self, **options):
        return Schema()

    def prepare_index_params(self):
        return Indices()

    def has_collection(self, name, timeout=None):
        self._fail(self.faults())
        return name in self.collections

    def list_collections(self, timeout=None):
        self._fail(self.faults())
        return list(self.collections)

    def describe_collection(self, name, timeout=None):
        return {"fields": self.collections[name][0]}

    def create_collection(self, name, *, schema, index_params, timeout=None, consistency_level="Strong"):
        vectors = {field["name"] for field in schema if field["type"] in (FLOAT16_VECTOR, FLOAT_VECTOR)}
        assert {field for field, _ in index_params} == vectors
        self.collections[name] = (schema, {})

    def load_collection(self, name, timeout=None):
        assert name in self.collections

    def upsert(self, name, entities, timeout=None):
        fault = self.faults()
        if fault != "before":
            part = entities[: len(entities) // 2] if fault == "half" else entities
            with self.lock:
                self.collections[name][1].update({entity["id"]: entity for entity in part})
        self._fail(fault)

    def delete(self, name, *, filter, timeout=None):
        fault = self.faults()
        if fault != "before":
            with self.lock:
                entities = self.collections[name][1]
                for entity in self._matching(name, filter):
                    del entities[entity["id"]]
        self._fail(fault)

    def query(self, name, *, filter, output_fields, timeout=None, consistency_level="Strong"):
        self._fail(self.faults())
        with self.lock:
            found = self._matching(name, filter)
        if output_fields == ["count(*)"]:
            return [{"count(*)": len(found)}]
        return [self._shown(name, entity, output_fields) for entity in found]

    def search(
        self,
        name,
        *,
        data,
        anns_field,
        filter,
        limit,
        output_fields,
        timeout=None,
        consistency_level="Strong",
    ):
        self._fail(self.faults())
        with self.lock:
            found = self._matching(name, filter)
        answers = []
        for query in data:
            products = [float(query.astype(float) @ entity[anns_field].astype(float)) for entity in found]
            best = sorted(range(len(found)), key=lambda row: (-products[row], found[row]["ordinal"]))[:limit]
            answers.append([{"entity": self._shown(name, found[row], output_fields)} for row in best])
        return answers

    def close(self):
        """Nothing to let go of."""

    def _fail(self, fault):
        self.calls += 1
        if fault is not None:
            raise ConnectionError(f"a fault {fault} the change")

    def _matching(self, name, filter):
        terms = [re.fullmatch(r"(\w+) (==|>=|<) (\d+)", term).groups() for term in filter.split(" and ")]
        compare = {"==": int.__eq__, ">=": int.__ge__, "<": int.__lt__}
        return [
            entity
            for entity in self.collections[name][1].values()
            if all(compare[sign](entity[field], int(bound)) for field, sign, bound in terms)
        ]

    def _shown(self, name, entity, fields):
        """As a server gives them: float16 as bytes, float32 as numbers."""
        shown = {field: entity[field] for field in fields}
        for field in ("key", "value"):
            if entity[field].dtype == np.float16:
                shown[field] = [entity[field].tobytes()]
            else:
                shown[field] = entity[field].tolist()
        return shown
