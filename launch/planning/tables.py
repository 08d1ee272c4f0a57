"""Formats plans as text."""

from collections.abc import Mapping, Sequence
from typing import Any

from launch.planning.machines import GIB
from launch.planning.measured import expected, prices


def table(plan: Mapping[str, Any]) -> str:
    """Formats one plan.

    Args:
      plan: plan of `launch.planning.planner.plan`.

    Returns:
      Lines of text.
    """
    memory, batch = plan['memory'], plan['batch']
    total, active = plan['parameters'].values()
    mesh = ' x '.join(f'{a} {n}' for a, n in plan['mesh'].items() if n > 1)
    lines = [
        f'{plan["topology"]}: {plan["chips"]} chips, mesh {mesh or "1"}',
        f'{total / 1e9:,.2f}B parameters, {active / 1e9:,.2f}B active',
        f'{batch["examples"]:,} examples a step: '
        f'{batch["units_per_chip"]:,.0f} {batch["unit"]} a chip',
        '',
        'memory a chip, GiB',
    ]
    kinds = [k for k in memory if k not in ('sum', 'there', 'fits')]
    lines += [f'  {k:<16}{memory[k] / GIB:>10.2f}' for k in kinds]
    verdict = 'fits' if memory['fits'] else 'does NOT fit'
    lines.append(
        f'  {"sum":<16}{memory["sum"] / GIB:>10.2f} of '
        f'{memory["there"] / GIB:.0f}: {verdict}'
    )
    if 'step' in plan:
        lines += _times(plan)
    return '\n'.join([*lines, f'compiled in {plan["compile_seconds"]:.0f} s'])


def _times(plan: Mapping[str, Any]) -> list[str]:
    flops, step, rows = plan['flops'], plan['step'], plan['collectives']
    lines = [
        '',
        f'FLOPs a step: {flops["useful"]:.3e} useful, '
        f'{flops["executed"]:.3e} executed '
        f'({flops["useful_over_executed"]:.0%} useful)',
        f'HBM bytes a chip: {plan["hbm_bytes"]:.3e}',
        'collectives of a step, a device: how many, bytes received'
        f'{_by(rows)}, time',
    ]
    lines += [
        f'  {c["kind"]:<20}{c["axes"]:<20}{c["count"]:>6}'
        f'{_sizes(c["links"], 12, 2)} {c["seconds"]:>9.3f} s'
        for c in [*rows, *_total(rows)]
    ]
    lines += _mixtures(plan.get('mixtures', {}))
    lines += ['', 'seconds a step']
    lines += [
        f'  {name:<16}{step[name]:>10.3f}'
        for name in ('compute', 'memory', 'network')
    ]
    lines += [f'  {"of these":<24}{"compute":>8}{"memory":>10}']
    lines += [
        f'  {p["part"]:<24}{p["compute"]:>8.3f}{p["memory"]:>10.3f}'
        for p in plan.get('parts', ())
        if max(p['compute'], p['memory']) >= 0.01 * step['compute']
    ]
    lines += [_time(words, at, plan) for words, at in _steps(plan).items()]
    lines.append(
        '  kernels at their peaks, no latency: nothing is faster than the first'
    )
    found = expected(plan)
    if found:
        lines.append(
            f'  expected from {found.fastest:.3f} to {found.slowest:.3f}, as '
            f'{found.points} measured steps stand to plans of them'
        )
    return lines


def _steps(plan: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Returns the times of a step, and what follows from each, by words."""
    step = plan['step']
    found = {
        'all overlapped': step['overlapped'],
        'none overlapped': step['not_overlapped'],
    }
    more = expected(plan)
    if more:
        at = step['overlapped']
        share = at['seconds'] / more.seconds
        found['expect about'] = {
            'seconds': more.seconds,
            'mfu': at['mfu'] * share,
            'units_per_second': at['units_per_second'] * share,
        }
    return found


def _time(words: str, at: Mapping[str, float], plan: Mapping[str, Any]) -> str:
    """Formats the seconds of a step, and what follows from them."""
    return (
        f'  {words:<16}{at["seconds"]:>10.3f}  MFU {at["mfu"]:.3f}, '
        f'{at["units_per_second"]:,.0f} {plan["batch"]["unit"]}/s'
    )


def price_table(plan: Mapping[str, Any], per_chip_hour: float) -> str:
    """Formats what a step costs, and 10^12 tokens or examples.

    Args:
      plan: plan of `launch.planning.planner.plan`, with a step.
      per_chip_hour: price of one chip for an hour, in any currency.

    Returns:
      Lines of text.
    """
    unit = plan['batch']['unit']
    lines = [
        f'price of a step and of 10^12 {unit}, a chip being {per_chip_hour:g} '
        'an hour'
    ]
    for words, at in _steps(plan).items():
        step, many = prices(plan, per_chip_hour, at['seconds'])
        lines.append(f'  {words:<16}{step:>10.4f}{many:>16,.0f}')
    return '\n'.join(lines)


def _mixtures(found: Mapping[str, Any]) -> list[str]:
    """Formats the collectives of one mixture layer."""
    if not found.get('runs'):
        return []
    runs, least = found['runs'], found['minimum']
    lines = [
        'collectives of one mixture layer, a device, with at least '
        f'{least / 1e9:.3f} GB of rows a pass'
    ]
    for name in ('forward', 'recomputed', 'backward'):
        lines += [
            f'  {name:<12}{c["kind"]:<20}{c["axes"]:<14}'
            f'{c["count"] / runs:>6.3g}{_sizes(c["links"], 12, 3, runs)}'
            for c in found[name]
            if c['bytes'] >= 0.01 * least * runs
        ]
    return lines


def _by(rows: Sequence[Mapping[str, Any]]) -> str:
    """Names the links in the order of `_sizes`, if there are several."""
    links = list(rows[0]['links']) if rows else []
    return f' by {" and by ".join(links)}' if len(links) > 1 else ''


def _sizes(
    links: Mapping[str, float], width: int, digits: int, runs: int = 1
) -> str:
    """Formats the bytes by each link."""
    sizes = [size / runs / 1e9 for size in links.values()]
    return ''.join(f'{size:>{width}.{digits}f} GB' for size in sizes)


def _total(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Adds up rows, if their bytes come by several links."""
    if not rows or len(rows[0]['links']) == 1:
        return []
    total = {
        link: sum(row['links'][link] for row in rows)
        for link in rows[0]['links']
    }
    return [
        {
            'kind': 'sum',
            'axes': '',
            'count': sum(row['count'] for row in rows),
            'links': total,
            'seconds': sum(row['seconds'] for row in rows),
        }
    ]


def ranking(plans: Sequence[Mapping[str, Any]]) -> str:
    """Ranks plans: those that fit by the time of a step, then the others.

    Args:
      plans: plans, each with its `changes`.

    Returns:
      Lines of text.
    """

    def order(plan):
        if 'refused' in plan:
            return 2, 0.0
        if 'step' not in plan or not plan['memory']['fits']:
            return 1, plan['memory']['sum']
        return 0, plan['step']['not_overlapped']['seconds']

    lines = [
        f'{"GiB":>8}{"compute":>9}{"memory":>9}{"network":>9}{"sum, s":>9}'
        f'{"MFU":>7}  plan'
    ]
    for plan in sorted(plans, key=order):
        name = ' '.join(
            f'{field.split(".")[-1]}={value}'
            for field, value in plan['changes'].items()
        )
        if 'refused' in plan:
            lines.append(f'{"refused":>8}{"":43}  {name}: {plan["refused"]}')
            continue
        cells = f'{plan["memory"]["sum"] / GIB:>8.1f}'
        if plan['memory']['fits'] and 'step' in plan:
            step = plan['step']
            times = (step['compute'], step['memory'], step['network'])
            cells += ''.join(f'{time:>9.3f}' for time in times)
            last = step['not_overlapped']
            cells += f'{last["seconds"]:>9.3f}{last["mfu"]:>7.3f}'
        else:
            cells += f'{"does not fit":>43}'
        lines.append(f'{cells}  {name}')
    lines.append('the sum has kernels at their peaks, and no latency')
    return '\n'.join(lines)
