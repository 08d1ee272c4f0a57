"""ConfigError, for mistakes of the user; Damaged, for files of a run."""

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
        try:
            value = repr(self.value)
        except Exception:  # of an object of the user's, or a huge integer
            value = f'a {type(self.value).__name__}'
        if len(value) > 200:  # the end of a path names the file
            value = f'{value[:98]}...{value[-99:]}'
        line = f'{self.field} = {value}: must be {self.allowed}'
        line = ' '.join(line.split())
        # Nothing that moves a terminal's cursor, or that no encoding has.
        return ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in line)

    def inside(self, path: str) -> 'ConfigError':
        """Returns the same error with its field below a section.

        Args:
          path: dotted name of the section.
        """
        return ConfigError(f'{path}.{self.field}', self.value, self.allowed)


class Damaged(RuntimeError):
    """What a run wrote can no longer be used, told in one line."""
