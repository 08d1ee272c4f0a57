"""What a run costs, as far as it is known."""

from tests.report import runs
from tests.report.page_test import page


def test_every_logged_cost_is_shown(tmp_path):
    lines = [
        {
            **line,
            'cost/tokens_seen': 2e6 * line['step'],
            'cost/mfu': 0.25,
            'cost/model_tflops': 12.0,
            'cost/data_wait': 0.125,
            'cost/device_memory_peak': 3 * 2.0**30,
        }
        for line in runs.lines()
    ]
    lines[0] |= {
        'cost/flops_per_token/experts': 3e9,
        'cost/flops_per_token/router': 1e6,
        'cost/flops_per_token/head': 0.0,
    }
    text, parsed = page(runs.write(tmp_path / 'one', lines))
    cells = {row[0]: row[1] for row in parsed.rows if len(row) == 2}
    assert cells['tokens seen'] == '8,000,000'
    assert cells['model FLOPs utilization (MFU)'] == '0.25'
    assert cells['model TFLOP/s, all devices'] == '12'
    assert cells['share of the time waiting for data'] == '0.125'
    assert cells['memory peak of a device, GiB'] == '3.00'
    assert cells['experts'] == '3 G (100%)'
    assert cells['router'] == '1 M (0%)'
    assert cells['head'] == '0 (0%)'
    assert cells['all'] == '3 G'
    assert 'devices&#x27; bfloat16 peak' in text
