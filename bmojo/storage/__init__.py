"""Memory on disk: tokens that left a model's slots, with keys and values, and exact search.

A store is a directory that one process writes and any number read. It depends on no model: entries
are arrays, and whoever opens it gives the identity of the model.

    store.json       format, dtype, identity of the model, policy of forgetting
    entries.sqlite   the rows (with entries.sqlite-wal and -shm while it is in use)
    writer.lock      held by the process that writes

The table ``entries`` has one row for each entry, with key and value, (heads, width) each, in
little-endian float32, and a CRC-32 of all that never changes. The rows of one transaction are
published together: durable, and seen by readers from their next search on. A process that is
killed loses what it had not published, and nothing else.

Keys are read into memory when a store is opened, 4 bytes a number and 52 bytes an entry; values
stay on disk. Every query is compared with every key: the best entries are always found.
"""

from bmojo.storage.alignment import Alignment
from bmojo.storage.description import Identity
from bmojo.storage.entries import Entries, Found, Record
from bmojo.storage.matched import MatchedStore
from bmojo.storage.matched_description import MatchedIdentity
from bmojo.storage.policy import Policy
from bmojo.storage.store import Store, WriteError
from bmojo.storage.verify import verify

__all__ = ["Alignment", "Entries", "Found", "Identity", "MatchedIdentity",
           "MatchedStore", "Policy", "Record", "Store", "WriteError", "verify"]  # fmt: skip
