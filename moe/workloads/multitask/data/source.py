"""The registry of data sources of multi-task learning.

N rows, F numeric inputs, C categorical columns, T tasks, B rows a batch over
all hosts.
"""

import abc
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from moe.config import Registry
from moe.workloads.multitask.data import rows
from moe.workloads.multitask.data.rows import Rows
from moe.workloads.multitask.targets import Target

SOURCES = Registry('source of rows')


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The tasks and features of rows, from which a model is made.

    Attributes:
      targets: targets of the tasks, in order.
      num_numeric: F, number of numeric inputs.
      tables: number of ids of each table of categories, with id 0, by name.
      table_of: name of the table of each of the C categorical columns.
    """

    targets: tuple[Target, ...]
    num_numeric: int
    tables: Mapping[str, int] = dataclasses.field(default_factory=dict)
    table_of: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Data:
    """Disjoint training, validation and test rows.

    Attributes:
      inputs: the tasks and features of the rows.
      train: 'numeric', float32 [N, F], 'categorical', int32 [N, C] where
        there are any, 'label', float32 [N, T], 'mask', bool [N, T], True for
        existing labels, and 'user', int32 [N], if there are users; None for an
        endless stream of rows.
      val: validation rows, as in `train`.
      test: test rows, as in `train`; {} without any.
      fingerprint: a hash of the rows, which identifies them.
    """

    inputs: Inputs
    train: Rows | None
    val: Rows
    test: Rows
    fingerprint: str

    def train_batches(
        self, batch_size: int, seed: int, host: int = 0, num_hosts: int = 1
    ) -> Any:
        """Returns an endless iterator over shuffled batches.

        Batch t is the same set of rows on any number of hosts, and the
        iterator's state, `{"next_index": t}`, is the same on all of them.

        Args:
          batch_size: B.
          seed: seed of the order.
          host: index of this host.
          num_hosts: number of hosts.

        Returns:
          An iterator over dictionaries of B / num_hosts rows, those of `train`
          and 'valid', bool.
        """
        assert self.train is not None, 'a stream has batches of its own'
        return rows.train_batches(self.train, batch_size, seed, host, num_hosts)

    def sizes(self) -> dict[str, Any]:
        """Returns sizes and the fingerprint of the rows, JSON."""
        count = lambda part: rows.num_rows(part) if part else 0
        return {
            'train_rows': count(self.train),
            'val_rows': count(self.val),
            'test_rows': count(self.test),
            'fingerprint': self.fingerprint,
        }

    def notes(self) -> list[str]:
        """Returns lines about the rows, told when a run starts."""
        return []

    def save(self, workdir: pathlib.Path) -> None:
        """Writes what `Source.restore` reads into a run's folder.

        Args:
          workdir: the run's folder.
        """


@dataclasses.dataclass(frozen=True)
class Source(abc.ABC):
    """A source of rows.

    Subclasses are frozen dataclasses, registered in `SOURCES`; their fields
    are the options of the section `data.source`.
    """

    @property
    @abc.abstractmethod
    def num_tasks(self) -> int:
        """Returns T, the number of tasks."""

    @abc.abstractmethod
    def load(self, batch_size: int) -> Data:
        """Reads or draws the rows.

        Args:
          batch_size: B, the least number of training rows.

        Raises:
          ConfigError: for data that cannot be used.
        """

    def inputs(self) -> Inputs | None:
        """Returns the tasks and features; None if only the rows tell them."""
        return None

    def restore(self, workdir: pathlib.Path) -> Inputs:
        """Returns the tasks and features of a run's rows.

        Args:
          workdir: the run's folder, with the files of `Data.save`.

        Raises:
          ConfigError: if the run has not begun.
        """
        inputs = self.inputs()
        if inputs is None:
            raise NotImplementedError(f'{type(self).__name__}.restore')
        return inputs
