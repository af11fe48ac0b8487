"""Memory on disk: tokens that left a model's slots, with keys and values, and how they are found.

A store is a directory that one process writes and any number read. It knows of no model: entries
are arrays, and whoever opens it says whose they are.

    store.json       format, dtype, identity of the model, policy of forgetting
    entries.sqlite   the rows (with entries.sqlite-wal and -shm while it is in use)
    index/L-N-H.usearch   graphs for search: layer, number of the segment, kv head
    writer.lock      held by the process that writes

The rows are the truth. ``entries`` has one for each entry: layer, source, position, token, the
ids up to it, innovation, when it was written by the store's clock and by the wall clock, how
often it was retrieved, strength, and a CRC-32 of all that never changes; ``payloads`` has key then
value, (heads, width) each, little-endian, in float32 or float16. What one transaction commits is
published: durable, and seen by readers from their next search on. A process that is killed loses
what it had not published, and nothing else.

Indexes follow from the rows. A segment holds the entries of a layer whose ids lie in a range; its
files are written once, and it counts from the moment that the table ``segments`` names it, with
sizes and checksums. A damaged or missing segment is built anew by the next writer; readers search
without it until then. Newer entries than those of all segments are kept in memory and compared
with every query, until there are so many that they become a segment, joined with older ones of
about their size.

In memory an entry costs 52 bytes. Storage must be able to map files into memory and to lock them,
which network file systems often are not.
"""

from bmojo.storage.entries import Entries, Found, Record
from bmojo.storage.identity import Identity
from bmojo.storage.layout import NoStore
from bmojo.storage.policy import Policy
from bmojo.storage.store import Store
from bmojo.storage.trails import Trail
from bmojo.storage.verify import verify
from bmojo.storage.writer import WriteError

__all__ = [
    "Entries",
    "Found",
    "Identity",
    "NoStore",
    "Policy",
    "Record",
    "Store",
    "Trail",
    "WriteError",
    "verify",
]
