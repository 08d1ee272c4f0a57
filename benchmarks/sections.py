"""The sections of docs/benchmarks.md: what each suite's lines say."""

import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from benchmarks.choices import choices
from benchmarks.layer import COPY, DROPLESS
from benchmarks.record import Record
from benchmarks.startup import COLD, WARM
from moe.dispatch import DISPATCHERS

# A column: its title, and the cell of a record.
Column = tuple[str, Callable[[Record], Any]]


def _time(found: Record) -> str:
    """Median and quartiles in milliseconds; why there are none."""
    for key in ('failed', 'not_run', 'lowered'):
        if key in found:
            return f'{key.replace("_", " ")}: {found[key]}'
    times = found.get('milliseconds')
    if times is None:
        return ''
    if 'q1' not in times:
        return _number(times['median'])
    low, high = (_number(times[q]) for q in ('q1', 'q3'))
    return f'{_number(times["median"])} ({low}–{high})'  # noqa: RUF001


def _number(value: float) -> str:
    """Three digits, or all before the point."""
    if abs(value) >= 100:
        return f'{value:,.0f}'
    return f'{value:.3g}'


def _of(key: str, digits: int = 2) -> Callable[[Record], str]:
    """A column of a number or a name, '' where there is none."""

    def cell(found: Record) -> str:
        value = found.get(key, '')
        if isinstance(value, float):
            return f'{value:.{digits}f}'
        return f'{value:,}' if isinstance(value, int) else str(value)

    return cell


def _row(kind: str) -> Callable[[Record], str]:
    return lambda found: _of(kind)(found.get('rows', {}))


_CASE: Column = ('', _of('case'))
_MS: Column = ('ms', _time)
_RATIO: Column = ('dense / time', _of('dense_over_time'))
_LIMIT: Column = ('limit / time', _of('limit_over_time'))
_ROWS: list[Column] = [
    (f'{kind} rows', _row(kind)) for kind in ('useful', 'padded', 'dropped')
]


def table(records: Iterable[Record], columns: Sequence[Column]) -> list[str]:
    """Returns the lines of a table in Markdown.

    Args:
      records: one a row.
      columns: title, and cell of a record.
    """
    lines = [[title for title, _ in columns], ['---'] * len(columns)]
    lines += [[str(cell(r)) for _, cell in columns] for r in records]
    return ['| ' + ' | '.join(line) + ' |' for line in lines]


def paragraph(text: str) -> list[str]:
    """Returns the lines of a paragraph, and an empty one.

    Args:
      text: its sentences.
    """
    return [
        *textwrap.wrap(
            text, 80, break_long_words=False, break_on_hyphens=False
        ),
        '',
    ]


def grouped(records: Iterable[Record], *keys: str) -> dict[tuple, list[Record]]:
    """Returns records by the values of some fields, in order.

    Args:
      records: the records.
      *keys: names of the fields.
    """
    found: dict[tuple, list[Record]] = {}
    for one in records:
        found.setdefault(tuple(one.get(k) for k in keys), []).append(one)
    return found


def _layer(records: Sequence[Record]) -> Iterator[str]:
    yield from paragraph(
        'A whole mixture layer, routing included, forward and backward with '
        'all gradients, in float32 with gated experts (D to F and back). The '
        'dense limit is a dense layer of the same useful FLOPs, the faster of '
        'XLA and PyTorch in the run. With many experts memory is a limit, too: '
        'the weights are read twice and their gradient is written once, at the '
        'speed at which all cores copy memory in the run; limit / time counts '
        'the time of both. Loads: balanced draws the experts alike; half sends '
        'one choice of every token to one expert; zipf draws expert e in '
        'proportion to 1/(e+1). Results of cases with the same rows are '
        'compared before they are timed.'
    )
    keys = ('tokens', 'width', 'hidden', 'num_experts', 'k')
    copies = [r for r in records if r['case'] == COPY]
    layers = grouped((r for r in records if r['case'] != COPY), *keys)
    for (tokens, width, hidden, experts, k), found in layers.items():
        yield f'### E = {experts}, D = {width}, F = {hidden}'
        yield ''
        yield from paragraph(
            f'{tokens:,} tokens, K = {k}: {tokens * k:,} rows. '
            f'{_verdict(found)}'
        )
        balanced = [r for r in found if r.get('load') == 'balanced']
        for chosen in choices(balanced):
            yield from paragraph(
                f'Where no dispatcher is named, `{chosen.case}` is taken: '
                f'{chosen.ratio:.2f} times the time of the fastest of ours, '
                f'`{chosen.fastest}`.'
            )
        columns = [_CASE, ('load', _of('load')), _MS, _RATIO, _LIMIT, *_ROWS]
        yield from table(found, columns)
        yield ''
    speeds = [r['gigabytes_per_second'] for r in copies if 'milliseconds' in r]
    if speeds:
        low, high = min(speeds), max(speeds)
        yield from paragraph(
            f'Memory was copied at {low:.1f} to {high:.1f} GB/s, reading and '
            'writing counted.'
        )


def _median(found: Record) -> float:
    return found['milliseconds']['median']


def _verdict(found: Sequence[Record]) -> str:
    """Says where the default layer stands, and how skewed loads change it."""
    timed = [r for r in found if 'milliseconds' in r]
    ours = {r['load']: r for r in timed if r['case'] == DROPLESS}
    if 'balanced' not in ours:
        return ''
    own = ours['balanced']
    text = (
        f'The dropless default runs at {own["dense_over_time"]:.2f} of the '
        f'dense limit and at {own.get("limit_over_time", 0):.2f} of that with '
        'memory. '
    )
    others = [
        r
        for r in timed
        if r['load'] == 'balanced'
        and 'rows' in r
        and not r['rows']['padded'] + r['rows']['dropped']
        and r['case'] != DROPLESS
    ]
    if others:
        best = min(others, key=_median)
        ratio = _median(own) / _median(best)
        where = 'ahead' if ratio < 1 else 'behind'
        text += (
            f'It is {where}: it takes {ratio:.2f} times the time of the '
            f'fastest other dropless case, {best["case"]}. '
        )
    dispatchers = [
        r
        for r in timed
        if r['load'] == 'balanced' and r['case'].split(',')[0] in DISPATCHERS
    ]
    best = min(dispatchers, key=_median)
    if best is not own:
        text += (
            f'It takes {_median(own) / _median(best):.2f} times the time of '
            f'{best["case"]}. '
        )
    skewed = [
        f'{_median(r) / _median(own):.2f} times with {load}'
        for load, r in ours.items()
        if load != 'balanced'
    ]
    if skewed:
        text += f'Against its balanced load it takes {", ".join(skewed)}.'
    return text


def _step(records: Sequence[Record]) -> Iterator[str]:
    yield from paragraph(
        'One training step: forward, backward, clipping, AdamW. The PyTorch '
        'models have the same sizes, attention by '
        '`scaled_dot_product_attention` and fused AdamW.'
    )
    columns = [
        _CASE,
        _MS,
        ('tokens/s', _of('tokens_per_second')),
        ('time / dense', _of('time_over_dense')),
        ('parameters', _of('parameters')),
        ('active', _of('active_parameters')),
    ]
    yield from table(records, columns)


def _generation(records: Sequence[Record]) -> Iterator[str]:
    yield from paragraph(
        'Greedy generation with a cache, of a mixture with random weights: '
        'prompts are read and one token is made, or more. Decoded tokens a '
        'second are those of all rows, over what the longer case takes beyond '
        'the shorter. Transformers has its own implementations of experts.'
    )
    columns = [
        _CASE,
        ('batch', _of('batch')),
        ('prompt', _of('prompt')),
        ('generated', _of('generated')),
        _MS,
        ('read, tokens/s', _of('read_per_second', 1)),
        ('decoded, tokens/s', _of('decoded_per_second', 1)),
    ]
    yield from table(records, columns)


def _scaling(records: Sequence[Record]) -> Iterator[str]:
    yield from paragraph(
        'A layer that grows in one size at a time: tokens T, experts E, '
        'choices K, width D (with F = 2 D).'
    )
    columns = [
        ('', _of('axis')),
        ('value', _of('value')),
        ('case', _of('case')),
        _MS,
        _RATIO,
    ]
    yield from table(records, columns)


def _devices(records: Sequence[Record]) -> Iterator[str]:
    yield from paragraph(
        'The same layer with its experts on 1, 2 and 4 devices. On CPU these '
        'are virtual and share the cores, so the work is the same and what '
        'grows is the cost of splitting it.'
    )
    columns = [
        _CASE,
        ('devices', _of('expert_devices')),
        _MS,
        ('time / one device', _of('time_over_one_device')),
    ]
    yield from table(records, columns)


def _memory(records: Sequence[Record]) -> Iterator[str]:
    yield from paragraph(
        "Temporaries of a layer's forward and backward pass, by the compiler's "
        'analysis, against the least that the backward pass needs: the sorted '
        'tokens and both hidden products, A (D + 2 F) numbers. Below 1, some '
        'of them stand where gradients are written later.'
    )
    columns = [
        _CASE,
        ('E', _of('num_experts')),
        ('D', _of('width')),
        ('F', _of('hidden')),
        ('MiB', _of('temporaries_mib', 0)),
        ('least MiB', _of('least_mib', 0)),
        ('MiB / least', _of('temporaries_over_least')),
        *_ROWS,
    ]
    yield from table(records, columns)


def _compile(records: Sequence[Record]) -> Iterator[str]:
    yield from paragraph(
        'Seconds until a program can run, without any cache, and its '
        'instructions after optimisation.'
    )
    columns = [
        _CASE,
        ('E', _of('num_experts')),
        ('trace', _of('trace_seconds')),
        ('lower', _of('lower_seconds')),
        ('compile', _of('compile_seconds')),
        ('instructions', _of('instructions')),
    ]
    yield from table(records, columns)


def _startup(records: Sequence[Record]) -> Iterator[str]:
    yield from paragraph(
        'New processes, until they end or, for the quickstart, until the line '
        f'of the first step: "{COLD}" with an empty cache folder, "{WARM}" '
        'after one such run.'
    )
    columns = [
        _CASE,
        _MS,
        ('seconds over jax, flax, optax', _of('seconds_over_libraries')),
    ]
    yield from table(records, columns)


def _gpu(records: Sequence[Record]) -> Iterator[str]:
    yield from paragraph(
        'Published layers in bfloat16 at 4,096 tokens, forward and backward; '
        'errors of the layer against float32 on the host; a whole step of two '
        'layers of OLMoE.'
    )
    errors = [r for r in records if 'errors' in r]
    if errors:
        parts = ('loss', 'tokens', 'router', 'experts')
        cells: list[Column] = [
            (p, lambda r, p=p: f'{r["errors"][p]:.0e}') for p in parts
        ]
        columns = [_CASE, ('dtype', _of('dtype')), *cells]
        yield from [*table(errors, columns), '']
    rest = [r for r in records if 'errors' not in r and r['case'] != COPY]
    columns = [
        ('model', _of('model')),
        ('case', _of('case')),
        _MS,
        _RATIO,
        *_ROWS,
        ('MFU', _of('mfu')),
    ]
    yield from table(rest, columns)


SECTIONS: dict[str, tuple[str, Callable[[Sequence[Record]], Iterator[str]]]]
SECTIONS = {
    'layer': ('A layer', _layer),
    'step': ('A training step', _step),
    'generation': ('Generation', _generation),
    'scaling': ('Scaling', _scaling),
    'devices': ('Devices', _devices),
    'memory': ('Memory', _memory),
    'compile': ('Compilation', _compile),
    'startup': ('Start', _startup),
    'gpu': ('NVIDIA GPUs', _gpu),
}
PICTURES = {
    'layer': 'benchmarks_layer.png',
    'scaling': 'benchmarks_scaling.png',
}


def section(suite: str, records: Sequence[Record]) -> list[str]:
    """Returns the lines of a suite's section, without what it was run on.

    Args:
      suite: name of the suite.
      records: its records.
    """
    return list(SECTIONS[suite][1](records))
