"""ConfigError: the one error for mistakes of the user."""

from typing import Any


class ConfigError(ValueError):
    """A value of a config that cannot be used, told in one line.

    Args:
      field: dotted name of the field, relative to the part that raises.
      value: the value that was given.
      allowed: what would have been accepted, as the end of "must be ...".
    """

    def __init__(self, field: str, value: Any, allowed: str):
        self.field, self.value, self.allowed = field, value, allowed
        super().__init__(field, value, allowed)

    def __str__(self) -> str:
        value = repr(self.value)
        value = value if len(value) <= 80 else value[:77] + '...'
        line = f'{self.field} = {value}: must be {self.allowed}'
        return ' '.join(line.split())

    def inside(self, path: str) -> 'ConfigError':
        """Returns the same error with its field below a section.

        Args:
          path: dotted name of the section.
        """
        return ConfigError(f'{path}.{self.field}', self.value, self.allowed)
