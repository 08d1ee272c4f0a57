"""What a run has written into its folder."""

from moe.metrics import read_metrics


def repeatable(line):
    """The metrics of a line without those of speed, which no run repeats."""
    timed = lambda name: name.startswith('cost/') or name.endswith('_second')
    return {name: value for name, value in line.items() if not timed(name)}


def lines(folder):
    """The metrics, but the speed, which no run repeats."""
    return [repeatable(m) for m in read_metrics(folder / 'metrics.jsonl')]


def contents(folder):
    """Every file below a folder."""
    files = (p for p in sorted(folder.rglob('*')) if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}
