"""Configs: frozen dataclasses with defaults, and registries to choose from."""

from moe.config.constraints import (
    Above,
    AtLeast,
    Coefficients,
    Counted,
    Fraction,
    NaturalFloat,
    NaturalInt,
    NaturalSteps,
    OneOf,
    PositiveFloat,
    PositiveInt,
    PositiveSteps,
    Seed,
    Within,
)
from moe.config.errors import ConfigError, Damaged
from moe.config.overrides import override
from moe.config.parsing import Text, parse
from moe.config.plain import changed, differences, different, to_plain
from moe.config.registry import Registry, name_of, options

__all__ = [
    'Above',
    'AtLeast',
    'Coefficients',
    'ConfigError',
    'Counted',
    'Damaged',
    'Fraction',
    'NaturalFloat',
    'NaturalInt',
    'NaturalSteps',
    'OneOf',
    'PositiveFloat',
    'PositiveInt',
    'PositiveSteps',
    'Registry',
    'Seed',
    'Text',
    'Within',
    'changed',
    'differences',
    'different',
    'name_of',
    'options',
    'override',
    'parse',
    'to_plain',
]
