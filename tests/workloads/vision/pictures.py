"""Small pictures for tests: files, records, and what they hold."""

import io
import struct

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from PIL import Image


def painted(number, height=6, width=8, channels=3):
    """Pixels that tell the number of an image: noise of its own."""
    draw = np.random.default_rng(number)
    return draw.integers(0, 256, (height, width, channels), np.uint8)


def encoded(pixels, kind='PNG', **options):
    """The bytes of a file."""
    file = io.BytesIO()
    flat = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    Image.fromarray(flat).save(file, kind, **options)
    return file.getvalue()


def write_folder(root, classes, count, first=0, **size):
    """Writes a folder a class; returns number and label of every image."""
    made = []
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(count):
            number = first + label * count + i
            path = root / name / f'{number:03}.png'
            path.write_bytes(encoded(painted(number, **size)))
            made.append((number, label))
    return made


def example_class():
    """`tf.train.Example`, made by the library of protocol buffers."""
    file = descriptor_pb2.FileDescriptorProto(
        name='example.proto', package='t', syntax='proto3'
    )
    kinds = descriptor_pb2.FieldDescriptorProto

    def message(name, **fields):
        made = file.message_type.add(name=name)
        for field, (number, kind, many) in fields.items():
            more = made.field.add(name=field, number=number)
            more.label = kinds.LABEL_REPEATED if many else kinds.LABEL_OPTIONAL
            if isinstance(kind, str):
                more.type, more.type_name = kinds.TYPE_MESSAGE, f'.t.{kind}'
            else:
                more.type = kind
        return made

    message('BytesList', value=(1, kinds.TYPE_BYTES, True))
    message('FloatList', value=(1, kinds.TYPE_FLOAT, True))
    message('Int64List', value=(1, kinds.TYPE_INT64, True))
    message(
        'Feature',
        bytes_list=(1, 'BytesList', False),
        float_list=(2, 'FloatList', False),
        int64_list=(3, 'Int64List', False),
    )
    message(
        'Entry',
        key=(1, kinds.TYPE_STRING, False),
        value=(2, 'Feature', False),
    )
    message('Features', feature=(1, 'Entry', True))
    message('Example', features=(1, 'Features', False))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = pool.FindMessageTypeByName('t.Example')
    return message_factory.GetMessageClass(found)


def example(**features):
    """A serialized Example of bytes, ints and floats, or lists of them."""
    made = example_class()()
    for name, values in features.items():
        entry = made.features.feature.add(key=name)
        values = values if isinstance(values, list) else [values]
        if isinstance(values[0], bytes):
            entry.value.bytes_list.value.extend(values)
        elif isinstance(values[0], float):
            entry.value.float_list.value.extend(values)
        else:
            entry.value.int64_list.value.extend(values)
    return made.SerializeToString()


def write_records(path, records):
    """Writes a shard."""
    writer = ArrayRecordWriter(str(path), 'group_size:1')
    for record in records:
        writer.write(record)
    writer.close()


def write_tfrecord(path, records):
    """Writes TFRecord; its checksums, which nobody checks here, are 0."""
    with open(path, 'wb') as file:
        for record in records:
            file.write(struct.pack('<QI', len(record), 0) + record + bytes(4))
