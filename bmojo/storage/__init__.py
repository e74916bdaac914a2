"""In storage: a memory without a bound, written in the background and searched by inner product."""

from bmojo.storage.attach import attach, detach
from bmojo.storage.errors import StorageError, StorageWarning, StoreAway
from bmojo.storage.faiss import FaissStore
from bmojo.storage.flat import FlatStore
from bmojo.storage.memory import StoredMemory
from bmojo.storage.milvus import MilvusStore
from bmojo.storage.protocol import EideticStore, Found, Stream

__all__ = [
    "EideticStore",
    "FaissStore",
    "FlatStore",
    "Found",
    "MilvusStore",
    "StorageError",
    "StorageWarning",
    "StoreAway",
    "StoredMemory",
    "Stream",
    "attach",
    "detach",
]
