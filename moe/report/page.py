"""The report page of one run, or of several for comparison."""

import hashlib
import html
import json
import os
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from moe import files
from moe.paths import reading
from moe.report.cost import cost
from moe.report.markup import folded, page, section
from moe.report.optimization import optimization
from moe.report.overview import (
    balance,
    comparability,
    costs,
    differing_fields,
    number,
    overview,
)
from moe.report.results import auxiliary_losses, labels, results
from moe.report.run import Run
from moe.report.statistics import in_evaluation, in_training


class Sections(NamedTuple):
    """What a workload adds to the summary and the page of its runs.

    Attributes:
      summary: a function from a run to lines of text.
      details: a function from a run to parts of the page, HTML.
    """

    summary: Callable[[Run], Sequence[str]] = lambda run: ()
    details: Callable[[Run], Sequence[str]] = lambda run: ()


SectionsOf = Callable[[Run], Sections]


def no_sections(run: Run) -> Sections:
    """Returns sections that add nothing to any run."""
    del run
    return Sections()


def summary(
    workdir: pathlib.Path, sections_of: SectionsOf = no_sections
) -> str:
    """Returns the results of a run in a few lines of text.

    Args:
      workdir: the run's folder.
      sections_of: a function from a run to the sections of its workload.

    Returns:
      A line of the newest evaluation, of the largest load and of the cost,
      then the lines of the workload.

    Raises:
      ConfigError: if the folder holds no run.
    """
    run = Run(workdir)
    with reading(workdir):
        results = [
            f'{number(run, name)} {label}'
            for name, label in labels(run).items()
        ]
        loss = f'loss {number(run, "eval/loss") or "-"}'
        return '\n'.join(
            [
                f'validation: {", ".join([*results, loss])}',
                *balance(run),
                *costs(run),
                *sections_of(run).summary(run),
            ]
        )


def write(
    workdir: pathlib.Path,
    others: Sequence[pathlib.Path] = (),
    sections_of: SectionsOf = no_sections,
) -> pathlib.Path:
    """Writes the page of a run, or of its comparison with others.

    It is `report/index.html`, or `report/with-OTHERS.html`. It has all logged
    evaluation metrics, auxiliary losses, statistics of mixture layers and
    router states, those of plugins included. Runs of any kind are compared.

    Args:
      workdir: the run's folder; the page goes there.
      others: folders of runs to compare with.
      sections_of: a function from a run to the sections of its workload.

    Returns:
      The page's path.

    Raises:
      ConfigError: if a folder holds no run.
    """
    runs = {path: Run(path) for path in (workdir, *others)}
    names = _short_names(list(runs))
    labelled = {names[p]: run for p, run in runs.items()}
    with reading(workdir):
        parts = [
            comparability(labelled),
            overview(labelled),
            differing_fields(labelled),
            results(labelled),
            auxiliary_losses(labelled),
            optimization(labelled),
            cost(labelled),
        ]
    for label, run in labelled.items():
        if others:
            parts.append(f'<h1>{html.escape(label)}</h1>')
        with reading(run.workdir):
            parts += [
                in_training(run),
                in_evaluation(run),
                *sections_of(run).details(run),
                _config(run),
            ]
    path = workdir / 'report' / _file_name(workdir, list(runs)[1:])
    path.parent.mkdir(exist_ok=True)
    files.write_text(path, page(' | '.join(labelled), parts))
    return path


def _config(run: Run) -> str:
    config = html.escape(json.dumps(run.config, indent=2))
    return section('Config', [folded('All fields', f'<pre>{config}</pre>')])


def _file_name(workdir: pathlib.Path, others: Sequence[pathlib.Path]) -> str:
    """Returns the name of the page that compares a run with others.

    Runs of another folder than the first have a hash of their paths in it, so
    that no comparison takes the place of another.
    """
    if not others:
        return 'index.html'
    beside = workdir.resolve().parent
    paths = [path.resolve() for path in others]
    name = '+'.join(path.name for path in paths)
    plain = re.sub(r'[^\w.+=,-]', '-', name, flags=re.ASCII)
    elsewhere = any(path.parent != beside for path in paths)
    if elsewhere or plain != name or len(plain) > 100:
        whole = '\n'.join(map(str, paths))
        digest = hashlib.sha256(os.fsencode(whole)).hexdigest()[:8]
        plain = f'{plain[:100]}-{digest}'
    return f'with-{plain}.html'


def _short_names(paths: list[pathlib.Path]) -> dict[pathlib.Path, str]:
    """Returns folder names, with as many parents as make them unique."""
    for depth in range(1, 20):
        names = ['/'.join(p.resolve().parts[-depth:]) for p in paths]
        if len(set(names)) == len(paths):
            return dict(zip(paths, names, strict=True))
    return {p: str(p) for p in paths}
