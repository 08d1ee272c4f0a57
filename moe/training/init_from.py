"""The section `init_from`: what a run takes of another run when it starts."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import ClassVar

from moe.config import ConfigError

NEW, RESIZE = 'new', 'resize'


@dataclasses.dataclass(frozen=True, kw_only=True)
class InitFrom:
    """What a run takes of another run when it starts.

    Attributes:
      run: folder of the other run, or DIR:STEP for a checkpoint that is not its
        newest; nothing is written there.
      map: what is done for parameters that differ, by the name of a part, or of
        one of this run's parameters (as stack/layers, which stands for all
        below it; * for anything): new makes them as without the other run,
        resize takes what both have along each axis, and anything else is the
        name in the other run.
      optimizer: whether to take the optimizer's state and the number of steps.
      data: whether to go on in the data where the other run was.
    """

    SHORT: ClassVar[str] = 'run'

    run: str
    map: Mapping[str, str] = dataclasses.field(default_factory=dict)
    optimizer: bool = False
    data: bool = False

    def __post_init__(self):
        if self.optimizer and self.map:
            allowed = 'False with a map: the moments are of other parameters'
            raise ConfigError('optimizer', True, allowed)

    @property
    def folder(self) -> pathlib.Path:
        """Returns the folder of the other run."""
        return pathlib.Path(self._parts[0])

    @property
    def step(self) -> int | None:
        """Returns the step of the checkpoint; None for the newest."""
        return self._parts[1]

    @property
    def _parts(self) -> tuple[str, int | None]:
        folder, colon, step = self.run.rpartition(':')
        if colon and step.isdecimal() and step.isascii():
            return folder, int(step)
        return self.run, None
