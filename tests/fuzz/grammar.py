"""Grammars of mistakes, for hypothesis: flags, values, config files, bytes."""

import functools
import itertools
import re

from hypothesis import strategies as st

from moe.config.reference import fields
from moe.workloads.registry import WORKLOADS

# Texts that fields of every kind get; Python may read them or not.
VALUES = (
    *('', ' ', 'None', 'none', 'True', 'false', 'nan', 'inf', '-inf', '1e999'),
    *('-1', '0', '1', '2', '3', '7', '16', '1.5', '-0.5', '1e-5', '0x10'),
    *('1_0', '\uff11', '+2', '2.0', '1e3', '9' * 25, '9' * 5000, str(2**31)),
    *(str(2**31 - 1), str(2**32), str(2**63), '1000000000', '()', '(1,)'),
    *('[1]', '(1, 2', '{}', '{', '}', '{"name": "top_k"}', '{"name": 3}'),
    *('{"a": {"b": 1}}', '{[1]: 2}', '{1: 2}', '{"k": 1, "k": 2}', "'", '"'),
    *('{"name": "' + 'x' * 300 + '"}', '{"a": ' * 100, '(' * 300, 'a,b'),
    *('None,None', 'top_k', 'adamw', 'float32', 'load_balance', '../..', '/'),
    *('gs://bucket/x', '\n', 'a\nb', '\0', '\u2028', '\udce9', 'é', '😀'),
    *('-', '--steps', '=', 'lambda: 0', '__import__("os")', '%s', '$HOME'),
)
# The same in config files, as Python writes them.
EXPRESSIONS = (
    *('None', 'True', '0', '-1', '1', '3', '1.5', '10**30', '10**5000'),
    *('2**31', '2**63', 'float("nan")', 'float("inf")', '1j', 'b"x"', '""'),
    *('"x"', '"\\ud800"', '"a\\nb"', '"\\0"', '()', '(1,)', '[1, [2]]', '{}'),
    *('{1: 2}', '{"name": "top_k"}', '{"name": None}', '{"name": ["top_k"]}'),
    *('{(1, 2): 3}', '{None: 1}', 'set()', '{1, 2}', 'object()', 'len'),
    *('lambda: 0', 'range(3)', 'iter(())', 'type', 'Ellipsis', '...'),
    *('NotImplemented', 'int', '[None] * 3', '{"a": {"b": {"c": 1}}}'),
    *('__import__("numpy").float32(1)', '__import__("numpy").arange(3)'),
    *('__import__("ml_collections").ConfigDict({"a": 1})', 'Broken()'),
    *('bytearray(b"x")', 'memoryview(b"x")', 'Exception("x")', '"x" * 10**6'),
)


@functools.cache
def names(workload):
    """Dotted names of a workload's fields, those of all choices included."""
    return list({path[-1]: None for path, _ in possible(workload)})


@functools.cache
def possible(workload):
    """The fields, and the values that their types, and ranges, allow.

    A field is its dotted name after those flags that choose the entries whose
    option it is.
    """
    found = []
    for row in fields(WORKLOADS[workload]):
        values = [row.default or '1']
        if row.type.startswith('one of '):
            values = row.type.removeprefix('one of ').split(', ')
        elif row.type.startswith('int'):
            values = ['1', '2', '3', '4', '8', '0']
        elif row.type.startswith('float'):
            values = ['0.0', '0.1', '0.5', '1.0', '2.0', '1e-8', '1e8']
        elif row.type.startswith('bool'):
            values = ['True', 'False']
        elif re.fullmatch(r'[\w-]+(, [\w-]+)+', row.type):
            values = row.type.split(', ')
        values += ['None'] if row.type.endswith('or None') else []
        path, name = [], ''
        for part in re.split(r'(\(name=\w+\))', row.name.replace('[]', '')):
            entry = re.fullmatch(r'\(name=(\w+)\)', part)
            if entry:
                path.append(f'{name.removeprefix("config.")}.name={entry[1]}')
            else:
                name += part
        found.append(((*path, name.removeprefix('config.')), values))
    return found


@st.composite
def contradiction(draw, workload):
    """Flags of a possible value, if perhaps not beside the others."""
    (*path, name), values = draw(st.sampled_from(possible(workload)))
    given = [*path, f'{name}={draw(st.sampled_from(values))}']
    return [f'--config.{text}' for text in given]


@st.composite
def misspelt(draw, name):
    """A name with a character more, less, twice, exchanged, or another."""
    if not name:
        return draw(st.text(max_size=3))
    place = draw(st.integers(0, len(name) - 1))
    other = draw(st.sampled_from(['', 'x', '.', 'é', '_', '-', ' ', '\u200b']))
    kind = draw(st.sampled_from(['cut', 'twice', 'swap', 'put', 'case']))
    before, here, after = name[:place], name[place], name[place + 1 :]
    return {
        'cut': before + after,
        'twice': before + here + here + after,
        'swap': before + after[:1] + here + after[1:],
        'put': before + other + here + after,
        'case': before + here.swapcase() + after,
    }[kind]


@st.composite
def flag(draw, workload):
    """One argument with a mistake in it, or an odd but possible value."""
    field = st.sampled_from(names(workload))
    value = draw(st.one_of(st.sampled_from(VALUES), st.text(max_size=8)))
    kinds = ['value', 'value', 'misspelt', 'nested', 'syntax']
    kind = draw(st.sampled_from(kinds))
    if kind == 'value':
        return f'--config.{draw(field)}={value}'
    if kind == 'misspelt':
        return f'--config.{draw(misspelt(draw(field)))}={value}'
    if kind == 'nested':
        return f'--config.{draw(field)}.{draw(field)}={value}'
    name = draw(field)
    return draw(
        st.sampled_from(
            (
                f'--config.{name}',
                f'--config.={value}',
                f'--config..{name}={value}',
                f'--config.{name}.={value}',
                f'config.{name}={value}',
                f'-config.{name}={value}',
                f'\u2013config.{name}={value}',
                f'--{name}={value}',
                f'--no{name}',
                f'--config={value}',
                f'--configs.{name}={value}',
                f'--process={value}',
                f'--distribute={value}',
                f'--flagfile={value}',
                '--',
                '-',
                '',
                value,
            )
        )
    )


def command_lines(workload):
    """Some arguments, of which one at most is wrong by itself."""
    several = st.lists(contradiction(workload), min_size=1, max_size=4)
    wrong = st.one_of(st.just([]), flag(workload).map(lambda one: [one]))
    both = st.tuples(several, wrong)
    chain = itertools.chain.from_iterable
    return both.map(lambda found: [*chain(found[0]), *found[1]])


@st.composite
def config_files(draw, workload, plain):
    """Text of a config file: some fields are odd, or the text is."""
    lines = [
        'class Broken:',
        '    def __repr__(self): raise RuntimeError("x")',
        f'PLAIN = {plain!r}',
        'def get_config():',
        '    config = PLAIN',
    ]
    for _ in range(draw(st.integers(1, 3))):
        *path, field = draw(st.sampled_from(names(workload))).split('.')
        if draw(st.integers(0, 5)) == 0:
            field = draw(misspelt(field))
        where = ''.join(f'.setdefault({part!r}, {{}})' for part in path)
        key = draw(st.sampled_from([repr(field)] * 8 + ['3', 'None', '()']))
        given = draw(st.sampled_from(EXPRESSIONS))
        lines.append(f'    config{where}[{key}] = {given}')
        if draw(st.integers(0, 9)) == 0:
            lines.append(
                f'    del config[{draw(st.sampled_from(["model"]))!r}]'
            )
    lines.append('    return config')
    text = '\n'.join(lines) + '\n'
    if draw(st.integers(0, 5)) == 0:
        return draw(damaged(text.encode('utf-8', 'surrogateescape')))
    return text.encode('utf-8', 'surrogateescape')


@st.composite
def damaged(draw, content, others=(b'',)):
    """The bytes of a file after an accident."""
    size = len(content)
    start = draw(st.integers(0, size))
    stop = min(size, start + draw(st.sampled_from([1, 2, 16, 512, size])))
    before, here, after = content[:start], content[start:stop], content[stop:]
    other = draw(st.sampled_from(others))
    kind = draw(
        st.sampled_from(
            ('cut', 'flip', 'zero', 'delete', 'twice', 'put', 'splice', 'swap')
        )
    )
    if kind == 'cut':
        return before
    if kind == 'flip':
        bit = 1 << draw(st.integers(0, 7))
        return (
            before + bytes(byte ^ bit for byte in here[:1]) + here[1:] + after
        )
    if kind == 'zero':
        return before + bytes(len(here)) + after
    if kind == 'delete':
        return before + after
    if kind == 'twice':
        return before + here + here + after
    if kind == 'put':
        return before + draw(st.binary(min_size=1, max_size=64)) + here + after
    return before + other[len(before) :] if kind == 'splice' else other
