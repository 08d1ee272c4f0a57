"""The census-income (KDD) table: 42 columns, two tasks.

The tasks of Ma et al. (MMoE, KDD 2018, section 5.1), first group: whether the
income is above 50,000 and whether somebody never married. Neither education,
a task of another group, nor marital status is a feature; the instance weight is
left out as its authors ask.

Source: https://archive.ics.uci.edu/dataset/117/census+income+kdd
"""

from typing import Any

COLUMNS = (
    'age',
    'class of worker',
    'detailed industry recode',
    'detailed occupation recode',
    'education',
    'wage per hour',
    'enroll in edu inst last wk',
    'marital stat',
    'major industry code',
    'major occupation code',
    'race',
    'hispanic origin',
    'sex',
    'member of a labor union',
    'reason for unemployment',
    'full or part time employment stat',
    'capital gains',
    'capital losses',
    'dividends from stocks',
    'tax filer stat',
    'region of previous residence',
    'state of previous residence',
    'detailed household and family stat',
    'detailed household summary in household',
    'instance weight',
    'migration code-change in msa',
    'migration code-change in reg',
    'migration code-move within reg',
    'live in this house 1 year ago',
    'migration prev res in sunbelt',
    'num persons worked for employer',
    'family members under 18',
    'country of birth father',
    'country of birth mother',
    'country of birth self',
    'citizenship',
    'own business or self employed',
    "fill inc questionnaire for veteran's admin",
    'veterans benefits',
    'weeks worked in year',
    'year',
    'income',
)
AMOUNTS = (
    'wage per hour',
    'capital gains',
    'capital losses',
    'dividends from stocks',
)
NUMERIC = (
    'age',
    *AMOUNTS,
    'num persons worked for employer',
    'weeks worked in year',
)
NO_FEATURES = ('education', 'marital stat', 'instance weight', 'income')


def source() -> dict[str, Any]:
    """Returns the section `data.source` of a config."""
    return {
        'name': 'table',
        'files': 'census-income.data.gz',  # a path or a glob
        'schema': schema(),
    }


def schema() -> dict[str, Any]:
    """Returns the section `data.source.schema` of a config."""
    features = (c for c in COLUMNS if c not in (*NUMERIC, *NO_FEATURES))
    return {
        'columns': COLUMNS,  # in the order of the file, which has no header
        'quote': '',  # names such as `veteran's` are not quoted
        'missing': (),  # '?' is a category of its own: not in universe
        'numeric': NUMERIC,
        'log1p': NUMERIC,
        'categorical': tuple(features),
        'labels': (
            _label('income', 'income', '50000+.'),
            _label('never_married', 'marital stat', 'Never married'),
        ),
    }


def _label(name: str, column: str, positive: str) -> dict[str, Any]:
    target = {'name': 'binary', 'positive': (positive,)}
    return {'name': name, 'column': column, 'target': target}
