"""Writers of tokenized files, by the formats' published definitions."""

import struct

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

MEGATRON = {
    1: '<u1',
    2: '<i1',
    3: '<i2',
    4: '<i4',
    5: '<i8',
    6: '<f8',
    7: '<f4',
    8: '<u2',
}


def write_megatron(prefix, documents, code=8, order=None, modes=False):
    """Writes `prefix.bin` and `prefix.idx`; returns the prefix.

    Args:
      prefix: path without an ending.
      documents: lists of sequences, each a list of ids.
      code: of the dtype.
      order: order of the sequences in the `.bin`; None for that of the index.
      modes: whether a byte a sequence follows, as multimodal datasets have.
    """
    sequences = [s for document in documents for s in document]
    stored = [np.array(s, MEGATRON[code]).tobytes() for s in sequences]
    offsets, data = [0] * len(stored), b''
    for i in order or range(len(stored)):
        offsets[i] = len(data)
        data += stored[i]
    starts = np.cumsum([0, *(len(document) for document in documents)])
    index = b'MMIDIDX\0\0' + struct.pack(
        '<QBQQ', 1, code, len(stored), len(starts)
    )
    index += np.array([len(s) for s in sequences], '<i4').tobytes()
    index += np.array(offsets, '<i8').tobytes()
    index += np.array(starts, '<i8').tobytes()
    index += b'\0' * len(stored) * modes
    for ending, content in (('bin', data), ('idx', index)):
        with open(f'{prefix}.{ending}', 'wb') as file:
            file.write(content)
    return str(prefix)


def write_llmc(path, ids, magic=20240520, version=1, stored='<u2', count=None):
    """Writes a header of 256 int32, and ids; returns the path."""
    header = np.zeros(256, '<i4')
    header[:3] = magic, version, len(ids) if count is None else count
    path.write_bytes(header.tobytes() + np.array(ids, stored).tobytes())
    return str(path)


def write_array_record(path, documents, stored='<u2', options='group_size:1'):
    """Writes a record of ids a document; returns the path."""
    writer = ArrayRecordWriter(str(path), options)
    for ids in documents:
        writer.write(np.array(ids, stored).tobytes())
    writer.close()
    return str(path)
