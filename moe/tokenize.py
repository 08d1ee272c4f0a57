"""`python -m moe.tokenize --files=GLOB --out=DIR`: makes shards of token ids.

Reads text, rows of JSON and Parquet, with a tokenizer that is given or trained
on them. What is finished stays: the same command goes on where it ended.
"""

import glob
import itertools
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags

from moe import files, progress
from moe.command_line import command, read_flags
from moe.config import ConfigError
from moe.workloads.data_cache import identity, key_of
from moe.workloads.data_files import by_number, matching
from moe.workloads.lm.data.documents import (
    KINDS,
    Part,
    kind_of,
    parts_of,
    read_part,
)
from moe.workloads.lm.data.shards import WRITERS, Shard, write_shard
from moe.workloads.lm.data.tokenizer import read_tokenizer, train_bpe
from moe.workloads.written_shards import (
    grouped,
    new_folder,
    write_all,
    write_manifest,
)

_TOKENIZER = 'tokenizer.json'
_FLAGS = flags.FlagValues()


def _text(name: str, default: str, about: str) -> None:
    flags.DEFINE_string(name, default, about, flag_values=_FLAGS)


_text('files', '', 'Path or glob of the documents, or a folder.')
_text('out', '', 'Folder of the shards, new or of the same command.')
_text('field', 'text', 'Name of the text in rows of JSON and Parquet.')
_text('tokenizer', '', "Path of the tokenizer.json; '' trains one.")
flags.DEFINE_enum(
    'kind',
    'auto',
    ['auto', *KINDS],
    'What the files have; auto: by names with .jsonl, and by contents.',
    flag_values=_FLAGS,
)
flags.DEFINE_enum(
    'format',
    'array_record',
    sorted(WRITERS),
    'Format of the shards, the name of a data source.',
    flag_values=_FLAGS,
)
flags.DEFINE_integer(
    'vocab_size',
    None,
    'Ids of the byte-level BPE that is trained on the documents.',
    257,
    flag_values=_FLAGS,
)
flags.DEFINE_integer(
    'train_mib', 256, 'MiB of text to train it on.', 1, flag_values=_FLAGS
)
flags.DEFINE_integer(
    'shard_mib', 64, 'MiB of the files for a shard.', 1, flag_values=_FLAGS
)
flags.DEFINE_integer(
    'processes', 0, 'How many; 0: one a core.', 0, flag_values=_FLAGS
)


@command('moe.tokenize')
def main(argv: list[str]) -> int:
    """Writes shards, the tokenizer and `manifest.json`; returns the exit code.

    The manifest is written last: a folder that has it is whole.
    """
    read_flags(_FLAGS, argv)
    if not _FLAGS.files:
        raise ConfigError('--files', '', 'a path, a glob or a folder')
    if not _FLAGS.out:
        raise ConfigError('--out', '', 'a folder')
    if bool(_FLAGS.tokenizer) == bool(_FLAGS.vocab_size):
        allowed = 'given, or --vocab_size for one that is trained; not both'
        raise ConfigError('--tokenizer', _FLAGS.tokenizer, allowed)
    size = _FLAGS.shard_mib * 2**20
    parts = _parts(size)
    with new_folder(_FLAGS.out, '--out') as out:
        tokenizer = _tokenizer(out, parts)
        shards = _shards(out, tokenizer, grouped(parts, size))
        entries = write_all(shards, write_shard, _FLAGS.processes, 'tokenizing')
        found = _manifest(out, tokenizer, entries)
    print(
        f'{found["documents"]:,} documents, {found["tokens"]:,} tokens, '
        f'{found["text_bytes"] / max(found["tokens"], 1):.2f} bytes a token, '
        f'in {len(shards)} shard(s)'
    )
    print('train on them with', *_options(found))
    return 0


def _options(found: dict[str, Any]) -> list[str]:
    """Returns the options of a run on the shards."""
    source = '--config.data.source'
    given = [
        f'{source}.name={_FLAGS.format}',
        f'{source}.files={_FLAGS.out}',
        f'--config.model.vocab_size={found["vocab_size"]}',
    ]
    if found['dtype'] != 'uint16' and _FLAGS.format in (
        'array_record',
        'nanogpt',
    ):
        given.append(f'{source}.dtype={found["dtype"]}')
    return given


def _parts(size: int) -> list[Part]:
    """Returns the parts of all files, in the order of the files' names."""
    pattern = _FLAGS.files
    if os.path.isdir(pattern):
        pattern = os.path.join(glob.escape(pattern), '**', '*')
    found: list[Part] = []
    for path in sorted(matching(pattern, '--files'), key=by_number):
        kind = kind_of(path) if _FLAGS.kind == 'auto' else _FLAGS.kind
        found += parts_of(path, kind, size)
    return found


def _tokenizer(out: pathlib.Path, parts: Sequence[Part]) -> str:
    """Returns the path of the tokenizer, copied or trained in the folder."""
    path = out / _TOKENIZER
    if _FLAGS.tokenizer:
        given = read_tokenizer(_FLAGS.tokenizer, '--tokenizer')
        source = pathlib.Path(_FLAGS.tokenizer)
        source = source / _TOKENIZER if source.is_dir() else source
        if path.exists() and read_tokenizer(str(path)).digest != given.digest:
            allowed = 'the one in the folder, or another --out'
            raise ConfigError('--tokenizer', _FLAGS.tokenizer, allowed)
        if not path.exists():
            shutil.copyfile(source, path)
    elif not path.exists():
        with progress.shown('training the tokenizer', unit='bytes') as reach:
            try:
                trained = train_bpe(_sample(parts, reach), _FLAGS.vocab_size)
            except ImportError:
                allowed = "absent without tokenizers: pip install 'moe[text]'"
                raise ConfigError(
                    '--vocab_size', _FLAGS.vocab_size, allowed
                ) from None
        files.write_text(path, trained)
    elif read_tokenizer(str(path)).vocab_size > _FLAGS.vocab_size:
        allowed = 'that of the tokenizer in the folder, or another --out'
        raise ConfigError('--vocab_size', _FLAGS.vocab_size, allowed)
    return str(path)


def _sample(parts: Sequence[Part], reach: progress.Count) -> Iterator[str]:
    """Yields documents of parts that are evenly spaced, up to `train_mib`."""
    left = _FLAGS.train_mib * 2**20
    total = sum(part.size for part in parts)
    step = max(-(-total // left), 1)
    done = 0
    for part in itertools.islice(parts, 0, None, step):
        for text in read_part(part, _FLAGS.field):
            yield text.decode(errors='replace')
            done += len(text)
            reach(done)
            if done >= left:
                return


def _shards(
    out: pathlib.Path, tokenizer: str, groups: Sequence[list[Part]]
) -> list[Shard]:
    """Returns the shards to write."""
    digest = read_tokenizer(tokenizer).digest
    shards = []
    for i, group in enumerate(groups):
        paths = sorted({part.path for part in group})
        made_of = [digest, _FLAGS.format, _FLAGS.field, group, identity(paths)]
        name = f'tokens-{i:05}-of-{len(groups):05}'
        shards.append(
            Shard(
                str(out),
                name,
                _FLAGS.format,
                group,
                _FLAGS.field,
                tokenizer,
                key_of('shard', 1, made_of),
            )
        )
    return shards


def _manifest(
    out: pathlib.Path,
    tokenizer: str,
    entries: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Writes the manifest; returns it."""
    made = read_tokenizer(tokenizer)
    total = {
        name: sum(entry[name] for entry in entries)
        for name in ('documents', 'tokens', 'text_bytes')
    }
    found: dict[str, Any] = {
        'format': _FLAGS.format,
        'dtype': WRITERS[_FLAGS.format].dtype(made.vocab_size),
        'tokenizer': _TOKENIZER,
        'tokenizer_sha256': made.digest,
        'vocab_size': made.vocab_size,
        'end_of_text': made.end_of_text,
        **total,
        'shards': entries,
    }
    write_manifest(out, found, 'tokens-*-of-*')
    return found


if __name__ == '__main__':
    sys.exit(main(sys.argv))
