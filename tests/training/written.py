"""What a run has written into its folder."""

from moe.metrics import read_metrics


def lines(folder):
    """The metrics, but the speed, which no run repeats."""
    metrics = read_metrics(folder / 'metrics.jsonl')
    return [
        {k: v for k, v in m.items() if k != 'train/tokens_per_second'}
        for m in metrics
    ]


def contents(folder):
    """Every file below a folder."""
    files = (p for p in sorted(folder.rglob('*')) if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}
