"""docs/reference/config.md is what the code says."""

from tests.docs import config_page


def test_the_page_is_up_to_date():
    text = config_page.page()
    assert config_page.written().strip() == text.strip(), (
        'python -m tests.docs.config_page'
    )


def test_fields_stand_once():
    text = config_page.page()
    headings = [h for h in text.splitlines() if h.startswith('### ')]
    for heading in ('### Choices of `config.optimizer`', '### `config.mesh`'):
        assert headings.count(heading) == 1
    assert '| `learning_rate` | float' in text
    assert text.count('| `learning_rate` |') == 1
