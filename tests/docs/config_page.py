"""The page of all config fields, generated from the code.

    python -m tests.docs.config_page

rewrites it.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator

from moe.config.reference import Row, fields
from moe.workloads.registry import WORKLOADS
from tests.docs.blocks import ROOT

PAGE = ROOT / 'docs' / 'reference' / 'config.md'
HEAD = """# Config fields

Generated from the code by `python -m tests.docs.config_page`. A config file
gives what differs from these defaults; `--config.NAME=VALUE` changes a field on
the command line, and `python train.py --config=FILE --help=config` prints the
fields of that file's workload. A field without a default must be given.

A field that is *one of* a list chooses code by its name, and the options of
that name are fields of the same section: `--config.optimizer.name=lion
--config.optimizer.b1=0.95`. The names and their options are listed below the
sections, once for each list.
"""


@dataclasses.dataclass
class Section:
    """The fields of a section, and the sections and choices inside it.

    Attributes:
      rows: fields in order, by name.
      sections: those inside, by name.
      choices: for fields that choose, the sections of options by entry.
    """

    rows: dict[str, Row] = dataclasses.field(default_factory=dict)
    sections: dict[str, 'Section'] = dataclasses.field(default_factory=dict)
    choices: dict[str, dict[str, 'Section']] = dataclasses.field(
        default_factory=dict
    )


Cells = tuple[str, ...]
Choices = dict[tuple[str, ...], tuple[str, dict[str, Section]]]


def tree(rows: Iterable[Row]) -> Section:
    """Returns the fields of a config as sections inside sections."""
    top = Section()
    for row in rows:
        *path, name = re.findall(r'[^.(]+(?:\(name=[^)]*\))?', row.name)[1:]
        here = top
        for part in path:
            field, _, entry = part.rstrip(')').partition('(name=')
            if entry:
                here = here.choices[field].setdefault(entry, Section())
            else:
                here = here.sections.setdefault(field, Section())
        here.rows[name] = row
        _, chosen, names = row.type.partition('one of ')
        if chosen:
            entries = names.split(', ')
            here.choices[name] = {entry: Section() for entry in entries}
        elif row.type.startswith('a section'):
            here.sections[name] = Section()
    return top


def page() -> str:
    """Returns the text of the page."""
    choices: Choices = {}
    every: dict[str, dict[str, list[Cells]]] = {}
    for workload, schema in sorted(WORKLOADS.items()):
        every[workload] = {
            path: [_cells(section, n, path, choices) for n in section.rows]
            for path, section in nested('config', tree(fields(schema)))
        }
    parts = [HEAD]
    for names, found in grouped(every).items():
        all_of = len(names) == len(every)
        title = ', '.join(f'`{name}`' for name in names)
        parts.append(f'## {"All workloads" if all_of else title}\n')
        for path, cells in found.items():
            parts += [f'### `{path}`\n', *_table(cells), '']
    parts.append('## Choices\n')
    done = 0
    while done < len(choices):  # there may be choices inside of choices
        title, entries = list(choices.values())[done]
        parts += [
            f'### Choices of `{title}`\n',
            *choice(title, entries, choices),
        ]
        done += 1
    return '\n'.join(parts)


def nested(path: str, section: Section) -> Iterator[tuple[str, Section]]:
    """Yields a section and those inside it, with their dotted names."""
    if section.rows:
        yield path, section
    for name, inner in section.sections.items():
        yield from nested(f'{path}.{name}', inner)


def grouped(
    every: dict[str, dict[str, list[Cells]]],
) -> dict[tuple[str, ...], dict[str, list[Cells]]]:
    """Returns the fields by the workloads in which they are the same."""
    result: dict[tuple[str, ...], dict[str, list[Cells]]] = {}
    for sections in every.values():
        for path, fields_of in sections.items():
            for cells in fields_of:
                names = tuple(
                    n for n in every if cells in every[n].get(path, ())
                )
                there = result.setdefault(names, {}).setdefault(path, [])
                if cells not in there:
                    there.append(cells)
    return dict(sorted(result.items(), key=lambda item: -len(item[0])))


def choice(
    title: str, entries: dict[str, Section], choices: Choices
) -> Iterator[str]:
    """Yields the options of the entries of a list."""
    options = {
        name: [
            _cells(inner, field, path, choices)
            for path, inner in nested(title, entry)
            for field in inner.rows
        ]
        for name, entry in entries.items()
    }
    first, *others = options.values()
    common = [r for r in first if all(r in o for o in others)]
    common = common if others else []
    if common:
        yield from ['All of these have:\n', *_table(common, title), '']
    for name, rows in options.items():
        own = [row for row in rows if row not in common]
        if own:
            yield from [f'`{name}`:\n', *_table(own, title), '']
    without = [n for n, o in options.items() if len(o) == len(common)]
    if without:
        names = ', '.join(f'`{name}`' for name in without)
        yield f'Without {"more " if common else ""}options: {names}.\n'


def _cells(section: Section, name: str, path: str, choices: Choices) -> Cells:
    row, where = section.rows[name], f'{path}.{name}'
    kind = row.type
    if name in section.choices:
        entries = section.choices[name]
        title, before = choices.get(tuple(entries), (where, entries))
        # A list inside itself has no options there.
        choices[tuple(entries)] = title, max(before, entries, key=_size)
        anchor = re.sub(r'[^\w-]', '', title)
        many, chosen, _ = row.type.partition('one of ')
        kind = f'{many}{chosen}[{title}](#choices-of-{anchor})'
    default = f'`{row.default}`' if row.default else ''
    return where, kind, default, row.meaning


def _size(entries: dict[str, Section]) -> int:
    return sum(len(s.rows) for s in entries.values())


def _table(cells: list[Cells], within: str = '') -> list[str]:
    lines = [
        '| field | type | default | meaning |',
        '| --- | --- | --- | --- |',
    ]
    for where, *others in cells:
        inside = within and where.startswith(f'{within}.')
        name = where.removeprefix(f'{within}.') if inside else _last(where)
        row = [f'`{name}`', *(c.replace('|', r'\|') for c in others)]
        lines.append('| ' + ' | '.join(row) + ' |')
    return lines


def _last(path: str) -> str:
    return path.rpartition('.')[2]


def written() -> str:
    """Returns the page as it is."""
    return PAGE.read_text() if PAGE.exists() else ''


def main() -> None:
    """Rewrites the page."""
    PAGE.write_text(re.sub(r'\n+$', '\n', page()))
    print(PAGE)


if __name__ == '__main__':
    main()
