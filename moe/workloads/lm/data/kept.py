"""The tokenizer that a run keeps in its folder."""

import dataclasses
import pathlib

from moe import files
from moe.workloads.lm.data.sources import Source
from moe.workloads.lm.data.token_files import Tokenized
from moe.workloads.lm.data.tokenizer import Tokenizer, read_tokenizer

NAME = 'tokenizer.json'


def keep_tokenizer(source: Source, workdir: pathlib.Path) -> None:
    """Writes the tokenizer of a source into a run's folder, if it has a file.

    Args:
      source: the source.
      workdir: the run's folder.
    """
    text = source.tokenizer_json()
    if text is not None:
        files.write_text(workdir / NAME, text)


def with_kept_tokenizer(source: Source, workdir: pathlib.Path) -> Source:
    """Returns a source whose text is that of the tokenizer in a run's folder.

    Args:
      source: the source of the run; runs of before, and those on bytes, have no
        file, and keep it.
      workdir: the run's folder.

    Raises:
      ConfigError: for a file that is no tokenizer.
    """
    path = workdir / NAME
    if not path.exists():
        return source
    return Kept(source, read_tokenizer(str(path), 'workdir'))


@dataclasses.dataclass(frozen=True)
class Kept(Tokenized):
    """A source with another file of its tokenizer.

    Attributes:
      source: the source, which need not be there.
      tokenizer: its tokenizer.
    """

    source: Source
    tokenizer: Tokenizer

    def find_tokenizer(self):
        """Returns the tokenizer."""
        return self.tokenizer

    def load(self, seq_len):
        """Opens the tokens of the source."""
        return self.source.load(seq_len)
