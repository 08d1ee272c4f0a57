"""Values of a table's cells: numbers, and which texts are one value.

n rows.
"""

import math
import re
from collections.abc import Iterable, Sequence

import numpy as np

from moe.workloads.multitask.data.delimited import Chunk, Problems
from moe.workloads.multitask.data.schema import Label, Schema
from moe.workloads.multitask.targets import Target

_NUMERALS = frozenset('0123456789+-.eE')
_WHOLE = re.compile(r'(-?(?:0|[1-9][0-9]*))\.0*', re.ASCII)
# Not of more digits than Python turns into a number.
_INTEGER = re.compile(r'[+-]?[0-9]{1,4000}')


def number(text: str) -> float | None:
    """Returns a number in ASCII digits; None for any other text.

    Among others for `1_000`, digits of other scripts, `nan` and `inf`, all of
    which `float` would take.

    Args:
      text: the text of a cell.
    """
    if not _NUMERALS.issuperset(text):
        return None
    try:
        return float(text)
    except ValueError:
        return None


def category(text: str) -> str:
    """Returns the one spelling of a category: `3.0` and `3.` are `3`.

    Programs write whole numbers like that in columns with missing values. All
    other texts, such as `03` and `3.10`, are what they are.

    Args:
      text: the text of a cell.
    """
    if text[-1:] in ('0', '.') and (found := _WHOLE.fullmatch(text)):
        return '0' if found[1] == '-0' else found[1]
    return text


def is_in(values: Sequence[str], some: Iterable[str]) -> np.ndarray:
    """Returns which values are among some; numbers are compared as such.

    Args:
      values: texts of n cells.
      some: the texts to look for.

    Returns:
      Bool [n].
    """
    keys = {_key(text) for text in some}
    if all(isinstance(key, str) for key in keys):
        return np.fromiter(map(keys.__contains__, values), bool, len(values))
    found = {value: _key(value) in keys for value in set(values)}
    return np.fromiter(map(found.__getitem__, values), bool, len(values))


def numbers(
    chunk: Chunk,
    name: str,
    missing: Sequence[str],
    problems: Problems,
    within: np.ndarray | bool = True,
) -> np.ndarray:
    """Reads a column of numbers, each exactly or not at all.

    Args:
      chunk: n rows.
      name: the column.
      missing: texts that are missing.
      problems: handles rows whose value is no number.
      within: bool [n], the rows whose value is wanted.

    Returns:
      Float64 [n], nan where missing, refused, or not wanted.
    """
    values = chunk.columns[name]
    absent = is_in(values, missing) | ~np.broadcast_to(within, len(values))
    wanted = np.flatnonzero(~absent).tolist()
    texts = [values[i] for i in wanted]
    x = np.full(len(values), math.nan)
    try:
        if not _NUMERALS.issuperset(''.join(texts)):
            raise ValueError
        x[wanted] = [*map(float, texts)]
    except ValueError:
        found = (number(text) for text in texts)
        x[wanted] = [math.inf if one is None else one for one in found]
    with np.errstate(over='ignore'):  # too great for float32 is no number
        bad = ~absent & ~np.isfinite(x.astype(np.float32))
    allowed = 'a finite number in plain digits, or in `missing`'
    chunk.refuse(bad, name, problems, allowed)
    rounded = np.zeros(len(values), bool)
    if max(map(len, texts), default=0) > 15:
        rounded[wanted] = [_is_rounded(text) for text in texts]
    chunk.refuse(
        rounded & ~bad,
        name,
        problems,
        'a number that float64 holds exactly (an id is a category)',
    )
    return np.where(bad | rounded, math.nan, x)


def feature(
    chunk: Chunk, name: str, schema: Schema, problems: Problems
) -> np.ndarray:
    """Reads a numeric column, of which log1p is taken if the schema says so.

    Args:
      chunk: n rows.
      name: the column.
      schema: meaning of the columns.
      problems: handles rows whose value is no such number.

    Returns:
      Float64 [n], nan where missing or refused.
    """
    x = numbers(chunk, name, schema.missing, problems)
    if name in schema.log1p:
        chunk.refuse(x <= -1, name, problems, 'above -1, as log1p is taken')
        x = np.log1p(np.where(x <= -1, math.nan, x))
    return x


def labelled(
    chunk: Chunk, label: Label, schema: Schema, problems: Problems
) -> np.ndarray:
    """Finds the rows with a label that are in its task's sample space.

    Args:
      chunk: n rows; the columns may be absent.
      label: the label of the task.
      schema: meaning of the columns.
      problems: handles rows of which that is not sure.

    Returns:
      Bool [n].
    """
    needed = [label.column] + ([label.where.column] if label.where else [])
    if any(column not in chunk.columns for column in needed):
        return np.zeros(len(chunk.lines), bool)
    mask = ~is_in(chunk.columns[label.column], schema.missing)
    if label.where:
        column, names = label.where.column, label.where.values
        _refuse_alike(chunk, column, names, schema, problems)
        mask &= is_in(chunk.columns[column], names)
    return mask


def known_label(
    chunk: Chunk,
    label: Label,
    target: Target,
    schema: Schema,
    problems: Problems,
) -> tuple[np.ndarray, np.ndarray]:
    """Reads the label of a task that is no class.

    Args:
      chunk: n rows; the column may be absent.
      label: the label of the task.
      target: its target, which encodes numbers.
      schema: meaning of the columns.
      problems: handles rows whose label cannot be used.

    Returns:
      The labels, float64 [n], and the rows that have one, bool [n].
    """
    mask = labelled(chunk, label, schema, problems)
    column = label.column
    if column not in chunk.columns:
        return np.zeros(len(mask)), mask
    if target.reads == 'number':
        number_of = numbers(chunk, column, schema.missing, problems, mask)
        y = target.encoded(number_of)
        with np.errstate(over='ignore'):
            single = y.astype(np.float32)
        bad = np.isfinite(number_of) & ~np.isfinite(single)
        allowed = 'a number that its target can take (above -1 with log1p)'
        chunk.refuse(bad, column, problems, allowed)
        if not target.standardize:  # fractions are rounded, whole numbers never
            bad = np.isfinite(single) & (y == np.rint(y)) & (single != y)
            allowed = 'a number that float32 holds, or with target.standardize'
            chunk.refuse(bad, column, problems, allowed)
        return y, mask
    values = chunk.columns[column]
    _refuse_alike(chunk, column, label.positive, schema, problems, mask)
    if all(number(text) is not None for text in label.positive):
        words = {value for value in set(values) if number(value) is None}
        words -= {*schema.missing}
        allowed = 'a number, as target.positive is, or in `missing`'
        chunk.refuse(mask & is_in(values, words), column, problems, allowed)
    return is_in(values, label.positive).astype(float), mask


def _refuse_alike(
    chunk: Chunk,
    column: str,
    names: Sequence[str],
    schema: Schema,
    problems: Problems,
    within: np.ndarray | bool = True,
) -> None:
    """Refuses values that are nearly one of some names or a missing value."""
    values, names = chunk.columns[column], (*names, *schema.missing)
    alike = {_folded(name) for name in names} - {''}
    bad = {value for value in set(values) if _folded(value) in alike}
    wrong = is_in(values, bad) & ~is_in(values, names) & within
    allowed = 'spelled as one of ' + ', '.join(filter(None, names))
    chunk.refuse(wrong, column, problems, allowed)


def _folded(text: str) -> str:
    """Returns what is left of a name but for case, blanks and full stops."""
    return text.casefold().strip().rstrip('. ')


def _key(text: str) -> str | int | float:
    """Returns what is equal for two texts of one value."""
    value = number(text)
    if value is None:
        return text
    return int(text) if _INTEGER.fullmatch(text) else value


def _is_rounded(text: str) -> bool:
    """Whether a text is a whole number that float64 does not hold."""
    text = category(text)
    return bool(_INTEGER.fullmatch(text)) and int(text) != float(text)
