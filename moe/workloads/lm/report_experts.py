"""Report sections of what the experts of a language model read.

T tokens, L mixture layers, E experts, K choices a token, N validation sets.
"""

import html
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from moe.paths import reading
from moe.report import plots
from moe.report.markup import figure, folded, paragraph, section, table
from moe.report.run import Run
from moe.report.statistics import spread
from moe.workloads.lm.expert_use import FILE

_OPEN = 4  # layers, of which all are unfolded at first
_LONG = 32  # rows of a table that is unfolded at first


class Use(NamedTuple):
    """What `routing.npz` has; runs of before have the first choices alone.

    Attributes:
      layers: labels of the layers.
      texts: [T] texts of the tokens that are shown one by one.
      set_of: [T] number of the validation set of each.
      expert: [L, K, T] their experts, -1 for none.
      weight: [L, K, T] the combine weights; None of before.
      counted: the arrays of `moe.workloads.lm.expert_use` that count many
        tokens, {} of before.
      num_experts: E.
    """

    layers: list[str]
    texts: np.ndarray
    set_of: np.ndarray
    expert: np.ndarray
    weight: np.ndarray | None
    counted: Mapping[str, np.ndarray]
    num_experts: int


def experts(run: Run) -> list[str]:
    """Returns the sections of the experts, HTML; [] without their file."""
    path = run.workdir / FILE
    if not path.exists():
        return []
    with reading(path):
        use = _read(run)
        return [
            section('Sources by expert', [by_source(use)]),
            section('Experts that read the same tokens', [read_together(use)]),
            section('What each expert reads', [top_tokens(use)]),
            section('Tokens by expert', [tokens_by_expert(use)]),
        ]


def _read(run: Run) -> Use:
    with (run.workdir / FILE).open('rb') as file, np.load(file) as saved:
        arrays = dict(saved)
    if 'first' in arrays:  # of before
        expert, weight = arrays['first'][:, None], None
    else:
        expert, weight = arrays['expert'], arrays['weight']
    places = run.statistics().get('load', {})
    counts = [run.metrics[m].values.shape[-1] for m in places.values()]
    layers = [place.replace('layer_', 'Layer ') for place in places]
    if len(layers) != len(expert):
        layers = [f'Mixture {i}' for i in range(len(expert))]
    known = ('sets', 'counted', 'load', 'together', 'names', 'listed', 'share')
    return Use(
        layers,
        arrays['texts'],
        arrays.get('set_of', np.zeros(expert.shape[-1], int)),
        expert,
        weight,
        {k: arrays[k] for k in known} if 'listed' in arrays else {},
        max([int(expert.max()) + 1, *counts]),
    )


def by_source(use: Use) -> str:
    """Draws the load of the experts by validation set, if there are several.

    Args:
      use: what the experts read.
    """
    if not use.counted or len(use.counted['sets']) < 2:
        return ''
    load = np.moveaxis(use.counted['load'], 0, 1)  # [L, N, E]
    image = plots.matrices(
        spread(dict(zip(use.layers, load, strict=True))),
        'load / uniform share',
        plots.LOADS,
        xlabel='expert',
        rows=[str(name) for name in use.counted['sets']],
    )
    return figure(
        image,
        'Load of every expert by tokens of each validation set alone: white '
        'is the uniform share. Equal rows read sources alike; '
        f'{_counted(use)}.',
    )


def read_together(use: Use) -> str:
    """Draws which experts have tokens in common, by layer.

    Args:
      use: what the experts read.
    """
    if not use.counted or use.expert.shape[1] < 2:
        return ''
    panels = {}
    pairs = dict(zip(use.layers, use.counted['together'], strict=True))
    for label, both in spread(pairs).items():
        own = np.maximum(np.diagonal(both), 1)
        panels[label] = np.where(np.eye(len(both)), np.nan, both / own[:, None])
    image = plots.matrices(
        panels,
        'share',
        plots.colours_of([p[~np.isnan(p)] for p in panels.values()]),
        xlabel='other expert',
        ylabel='expert',
    )
    return figure(
        image,
        "Share of an expert's tokens that the other expert reads too; "
        f'{_counted(use)}.',
    )


def top_tokens(use: Use) -> str:
    """Tabulates the tokens that each expert reads more than by chance.

    Args:
      use: what the experts read.
    """
    if not use.counted:
        return ''
    names = [_visible(str(n)) for n in use.counted['names']]
    listed = zip(use.counted['listed'], use.counted['share'], strict=True)
    by_layer = spread(dict(zip(use.layers, listed, strict=True)))
    parts = [
        paragraph(
            'Tokens that weigh most in the mutual information of tokens and '
            "experts, with the share of a token's occurrences that the expert "
            f'reads; {_counted(use)}.'
        )
    ]
    for i, (label, (places, shares)) in enumerate(by_layer.items()):
        rows = {
            str(e): {
                'tokens': ' | '.join(
                    f'{names[place]} {share:.0%}'
                    for place, share in zip(*row, strict=True)
                    if share
                )
            }
            for e, row in enumerate(zip(places, shares, strict=True))
        }
        content = table(rows, ['tokens'], 'expert', 'words')
        is_open = i == 0 and use.num_experts <= _LONG
        parts.append(folded(label, content, is_open))
    return ''.join(parts)


def tokens_by_expert(use: Use) -> str:
    """Colours each token of a validation text by its first two choices.

    Args:
      use: what the experts read.
    """
    words = 'Validation text; the colour is the first-choice expert'
    if use.expert.shape[1] > 1:
        words += ', the line below a token is the second choice'
    if use.weight is not None:
        words += '; touched with the mouse, a token tells all and their weights'
    legend = ' '.join(
        f'<i class="e{e}">&nbsp;{e}&nbsp;</i>' for e in range(use.num_experts)
    )
    parts = [paragraph(f'{words}.'), f'<p>{legend}</p>']
    places = spread({label: i for i, label in enumerate(use.layers)})
    for label, layer in places.items():
        text = f'<pre class="map">{_coloured(use, layer)}</pre>'
        is_open = len(use.layers) <= _OPEN or layer == 0
        parts.append(folded(label, text, is_open))
    return f'<style>{_style(use.num_experts)}</style>' + ''.join(parts)


def _coloured(use: Use, layer: int) -> str:
    """Returns the tokens of a layer, the sets below their names."""
    found, last = [], None
    names = use.counted.get('sets', np.array(['']))
    for t, (text, number) in enumerate(zip(use.texts, use.set_of, strict=True)):
        if len(names) > 1 and number != last:
            found.append(f'\n<em>{html.escape(str(names[number]))}</em>\n')
            last = number
        chosen = [int(e) for e in use.expert[layer, :, t] if e >= 0]
        kinds = [f'{kind}{e}' for kind, e in zip('eu', chosen, strict=False)]
        told = ''
        if use.weight is not None:
            pairs = zip(chosen, use.weight[layer, :, t], strict=False)
            told = ', '.join(f'{e}: {weight:.2f}' for e, weight in pairs)
        title = f' title="{told}"' if told else ''
        kind = f' class="{" ".join(kinds)}"' if kinds else ''
        found.append(f'<i{kind}{title}>{_escaped(str(text))}</i>')
    return ''.join(found)


def _style(count: int) -> str:
    """Returns the colours of experts, as a background and as a line."""
    rules = ['.map i,p i{font-style:normal;white-space:pre-wrap}']
    for e in range(count):
        hue, light = 360 * e / count, 72 + 12 * (e % 2)
        rules.append(
            f'.e{e}{{background:hsl({hue:.0f} 80% {light}%)}}'
            f'.u{e}{{border-bottom:3px solid hsl({hue:.0f} 80% {light - 22}%)}}'
        )
    return ''.join(rules)


def _counted(use: Use) -> str:
    return f'{int(use.counted["counted"]):,} validation tokens'


def _visible(text: str) -> str:
    """Returns a token with marks for blanks; a dot without a glyph."""
    shown = text.replace('\n', '\u21b5').replace('\t', '\u21e5')
    return shown.replace(' ', '\u2423') or '\u00b7'


def _escaped(text: str) -> str:
    return html.escape(text) if text else '&middot;'
