"""The code blocks of README and docs, and a folder in which they run.

What stands after a block's fence says how it is tested:

  ```python          runs, after the others of its page
  ```python NAME.py  is written to the file NAME.py in the folder
  ```console         lines `$ COMMAND`, each followed by all that it prints
  ```sh              commands without their output
  ```text            is no code
"""

import pathlib
import re
import shlex
from collections.abc import Iterator
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]
# What a command finds in the folder where it is typed.
_LINKED = (
    'benchmarks',
    'configs',
    'examples',
    'launch',
    'moe',
    'tests',
    'train.py',
)


class Block(NamedTuple):
    """A fenced block of a page.

    Attributes:
      page: its path from the root of the repository.
      line: number of its first line.
      language: the first word after the fence.
      title: what follows that word, '' if nothing does.
      text: its lines.
    """

    page: str
    line: int
    language: str
    title: str
    text: str

    @property
    def place(self) -> str:
        """PAGE:LINE."""
        return f'{self.page}:{self.line}'


class Command(NamedTuple):
    """A command of a page.

    Attributes:
      place: PAGE:LINE of its block.
      line: as it is typed, on one line.
      output: what the page says it prints; None where it does not say.
    """

    place: str
    line: str
    output: str | None

    @property
    def words(self) -> list[str]:
        """The words of the line, comments left out."""
        return shlex.split(self.line, comments=True)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that stand before the program."""
        found = re.match(r'(?:[A-Z_]+=\S* )*', self.line)
        assert found is not None
        return dict(v.split('=', 1) for v in found[0].split())

    @property
    def module(self) -> str | None:
        """Our module that is run; None for any other program."""
        words = self.words[len(self.environment) :]
        if words[:1] != ['python']:
            return None
        name = words[2] if words[1] == '-m' else words[1].removesuffix('.py')
        return None if name == 'pytest' else name

    @property
    def arguments(self) -> list[str]:
        """What follows the module."""
        words = self.words[len(self.environment) :]
        return words[3 if words[1] == '-m' else 2 :]


def blocks(page: pathlib.Path) -> Iterator[Block]:
    """Yields the blocks of a page in order."""
    text = page.read_text()
    for found in re.finditer(r'^```(.*)\n((?:.*\n)*?)```$', text, re.MULTILINE):
        language, _, title = found[1].partition(' ')
        line = text.count('\n', 0, found.start()) + 2
        name = str(page.relative_to(ROOT))
        yield Block(name, line, language, title, found[2])


def commands(page: pathlib.Path) -> Iterator[Command]:
    """Yields the commands of a page in order."""
    for block in blocks(page):
        text = block.text.replace('\\\n', ' ')
        if block.language == 'sh':
            for line in text.splitlines():
                if line.strip() and not line.startswith('#'):
                    yield Command(block.place, squeezed(line), None)
        elif block.language == 'console':
            for part in re.split(r'^\$ ', text, flags=re.MULTILINE)[1:]:
                line, _, output = part.partition('\n')
                yield Command(block.place, squeezed(line), output)


def squeezed(line: str) -> str:
    """Returns a line with single blanks."""
    return re.sub(r'\s+', ' ', line).strip()


def write_files(page: pathlib.Path, folder: pathlib.Path) -> list[str]:
    """Writes the files of a page; returns their names."""
    names = []
    for block in blocks(page):
        if block.language == 'python' and block.title:
            (folder / block.title).write_text(block.text)
            names.append(block.title)
    return names


def make_folder(folder: pathlib.Path) -> pathlib.Path:
    """Fills a folder with what the root has, as links; returns it."""
    for name in _LINKED:
        if (ROOT / name).exists() and not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    return folder


def matches(pattern: str, output: str) -> bool:
    """Whether an output is as a page says, where `…` stands for anything."""
    parts = [re.escape(part) for part in pattern.strip().split('…')]
    return bool(re.fullmatch('.*?'.join(parts), output.strip(), re.DOTALL))
