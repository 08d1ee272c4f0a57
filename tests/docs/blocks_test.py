"""Blocks are found, and told apart."""

from tests.docs import blocks

PAGE = """# Page

```python my.py
x = 1
```

```console
$ A=1 B=2 python -m moe.sample --prompt='a b' \\
    --length=3
line … end
$ python train.py --workdir=runs/a  # a comment
```

```sh
# nothing
pip install x
```
"""


def test_blocks_and_commands(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, 'ROOT', tmp_path)
    page = tmp_path / 'page.md'
    page.write_text(PAGE)
    found = list(blocks.blocks(page))
    assert [(b.language, b.title) for b in found] == [
        ('python', 'my.py'),
        ('console', ''),
        ('sh', ''),
    ]
    assert found[0].place == 'page.md:4'
    sample, train, pip = blocks.commands(page)
    assert sample.environment == {'A': '1', 'B': '2'}
    assert sample.module == 'moe.sample'
    assert sample.arguments == ['--prompt=a b', '--length=3']
    assert blocks.matches(sample.output, 'line 7\n8 end')
    assert not blocks.matches(sample.output, 'line 7\n8')
    assert train.module == 'train'
    assert train.arguments == ['--workdir=runs/a']
    assert train.output == ''
    assert pip.module is None
    assert pip.output is None
    assert blocks.write_files(page, tmp_path) == ['my.py']
    assert (tmp_path / 'my.py').read_text() == 'x = 1\n'
