"""How large a frame is once it is unpacked, read from its headers: 138 kB can become 4 GiB, and must not.

pyarrow unpacks a whole message or nothing, and shows of its header only the bytes. These are a FlatBuffers table of
Arrow's Message.fbs: it lists the buffers of the body, and each packed buffer begins with its length when unpacked, as
int64. FlatBuffers: a table begins with the distance back to its vtable, which holds the distance from the table to each
of its fields; a reference to a table or vector is the distance to it. pyarrow has verified all of these distances.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pyarrow as pa

from fitq_shared.errors import FrameError

#: Bytes of the buffers of one frame when unpacked. The samples of the largest job take half of it; the results of the
#: largest chunk, fits of degree 30 with covariances, a little more.
MAX_UNPACKED_BYTES = 2**30

#: Fields of the tables Message, DictionaryBatch and RecordBatch by their place in the schema.
_HEADER, _DATA, _BUFFERS, _COMPRESSION = 2, 1, 2, 3
#: Written in place of the length of a buffer that is not packed.
_NOT_PACKED = -1


def check_unpacked_size(frame: bytes, most: int = MAX_UNPACKED_BYTES) -> None:
    """Return when `frame` is a stream of one batch of packed buffers that take at most `most` bytes together.

    Raises:
        FrameError: they take more.
        ArrowInvalid, OSError, struct.error: it is no such stream.
    """
    batches = size = 0
    for message in pa.ipc.MessageReader.open_stream(frame):
        if message.type != "schema":
            batches += message.type == "record batch"
            size += sum(_buffer_sizes(message))
    if batches != 1:
        raise pa.ArrowInvalid(f"it has {batches} batches of rows, expected one")
    if size > most:
        raise FrameError(
            f"a frame of {len(frame):,} bytes would unpack to {size:,}, and none takes more than {most:,}; was the key "
            "written by something else?"
        )


def _buffer_sizes(message: pa.ipc.Message) -> Iterator[int]:
    """Bytes of each buffer of a batch, of rows or of a dictionary, when unpacked."""
    header, body = bytes(message.metadata), message.body
    batch = _table(header, 0, _HEADER)
    if message.type == "dictionary":
        batch = _table(header, batch, _DATA)
    elif message.type != "record batch":
        raise pa.ArrowInvalid(f"it has a {message.type}, expected none")
    if _field(header, batch, _COMPRESSION) is None:
        raise pa.ArrowInvalid("its buffers are not packed")
    buffers = _table(header, batch, _BUFFERS)
    (count,) = struct.unpack_from("<I", header, buffers)
    for offset, length in struct.iter_unpack("<qq", header[buffers + 4 : buffers + 4 + 16 * count]):
        if length:
            (size,) = struct.unpack_from("<q", body, offset)
            yield length if size == _NOT_PACKED else max(size, 0)  # Arrow refuses a negative one


def _table(header: bytes, table: int, field: int) -> int:
    """Where the table or vector begins to which a field refers; the message itself is the one at 0."""
    at = _field(header, _follow(header, 0) if table == 0 else table, field)
    if at is None:
        raise pa.ArrowInvalid("its header lacks a part")
    return _follow(header, at)


def _field(header: bytes, table: int, field: int) -> int | None:
    """Where a field of a table is; None where it is not given."""
    (back,) = struct.unpack_from("<i", header, table)
    vtable = table - back
    (size,) = struct.unpack_from("<H", header, vtable)
    entry = 4 + 2 * field
    if entry + 2 > size:
        return None
    (distance,) = struct.unpack_from("<H", header, vtable + entry)
    return table + distance if distance else None


def _follow(header: bytes, at: int) -> int:
    (distance,) = struct.unpack_from("<I", header, at)
    return int(at + distance)
