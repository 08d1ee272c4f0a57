"""The resources of a trial on a SLURM cluster."""

import dataclasses
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from launch import shell
from moe.config import ConfigError, NaturalInt, PositiveInt, parse

# CPUs of a process that drives a GPU, below which its input is likely to wait.
_CPUS_OF_A_GPU = 4


@dataclasses.dataclass(frozen=True)
class Options:
    """The resources of a trial; 0 and '' are the cluster's defaults.

    Attributes:
      nodes: number of nodes of a trial.
      gpus_per_node: GPUs of a node, as a number, or with their type, as
        'h100:8'.
      tasks_per_node: number of processes of a node; 0 is one for each GPU, or
        one. One process can drive all GPUs of its node.
      cpus_per_task: number of CPUs of a process.
      memory: memory of a node, as SLURM writes it: '64G'.
      minutes: time limit; a trial that reaches it is requeued and resumes.
      grace: seconds before the limit at which a trial is signalled to stop.
      requeues: largest number of times that a trial that was signalled to stop
        is queued again.
      partition: partition to submit to.
      account: account to charge.
      qos: quality of service.
      constraint: features of nodes, as 'a100|h100'.
      reservation: reservation to run in.
      exclude: nodes to leave out.
      mail: address that is written to when the jobs end or fail.
      sbatch: more arguments of sbatch, such as '--exclusive --comment=mine'.
      srun: more arguments of srun.
      setup: lines of shell before a trial, such as 'module load cuda; ulimit
        -n 65536'.
      python: the interpreter on the nodes; '' is the one that runs the sweep,
        or `python` in a container.
      container: image that a trial runs in; this folder and that of the sweep
        are mounted.
      container_by: what runs it: pyxis (with enroot) or apptainer.
      poll: seconds between two queries of the queue.
    """

    nodes: PositiveInt = 1
    gpus_per_node: str = ''
    tasks_per_node: NaturalInt = 0
    cpus_per_task: NaturalInt = 0
    memory: str = ''
    minutes: PositiveInt = 60
    grace: PositiveInt = 120
    requeues: NaturalInt = 100
    partition: str = ''
    account: str = ''
    qos: str = ''
    constraint: str = ''
    reservation: str = ''
    exclude: str = ''
    mail: str = ''
    sbatch: str = ''
    srun: str = ''
    setup: str = ''
    python: str = ''
    container: str = ''
    container_by: Literal['pyxis', 'apptainer'] = 'pyxis'
    poll: PositiveInt = 15

    def __post_init__(self):
        if not re.fullmatch(r'|([\w.-]+:)?[0-9]+', self.gpus_per_node):
            allowed = "a number, or TYPE:NUMBER, such as 'h100:8'"
            raise ConfigError('gpus_per_node', self.gpus_per_node, allowed)
        gpus, tasks = self.gpus, self.tasks_per_node
        if gpus and tasks not in (0, 1, gpus) and self.tasks > 1:
            allowed = (
                f'1 or gpus_per_node ({gpus}): a process drives one or all'
            )
            raise ConfigError('tasks_per_node', tasks, allowed)
        if self.grace >= 60 * self.minutes:
            allowed = f'less than the {60 * self.minutes} s of the time limit'
            raise ConfigError('grace', self.grace, allowed)
        for name, value in dataclasses.asdict(self).items():
            check_directive(name, str(value))
        for name in ('sbatch', 'srun'):
            for argument in shell.words(name, getattr(self, name)):
                if not argument.startswith('--'):
                    allowed = f"'--name=value' ({argument!r} is not)"
                    raise ConfigError(name, getattr(self, name), allowed)

    def of_trial(self, name: str, own: Mapping[str, Any]) -> 'Options':
        """Returns these options with those of one trial.

        Args:
          name: name of the trial.
          own: its values by name of the option.

        Raises:
          ConfigError: for an option that a trial does not have.
        """
        if 'poll' in own:
            allowed = 'absent: it is the same for all trials'
            raise ConfigError(f'trial {name}: slurm.poll', own['poll'], allowed)
        values = {**dataclasses.asdict(self), **own}
        return parse(Options, values, f'trial {name}: slurm')

    @property
    def gpus(self) -> int:
        """Returns the number of GPUs of a node."""
        return int(self.gpus_per_node.rpartition(':')[2] or 0)

    @property
    def tasks(self) -> int:
        """Returns the number of processes of a trial."""
        return self.nodes * self._on_a_node

    @property
    def drives_all(self) -> bool:
        """Whether one process of several drives all GPUs of its node."""
        return self.tasks > 1 and self.gpus > 1 and self._on_a_node == 1

    @property
    def _on_a_node(self) -> int:
        return self.tasks_per_node or self.gpus or 1

    def warnings(self) -> list[str]:
        """Returns what is likely to be slow, a line each."""
        if not self.gpus:
            return []
        each = self.gpus // self._on_a_node or 1
        wanted = _CPUS_OF_A_GPU * each
        if self.cpus_per_task >= wanted:
            return []
        given = self.cpus_per_task or "the cluster's default, often 1"
        return [
            f'slurm.cpus_per_task = {given}: a process that drives {each} '
            f'GPU(s) is likely to wait for its input with less than {wanted}'
        ]

    def directives(self) -> Iterator[str]:
        """Yields the arguments of sbatch for a trial's resources."""
        given = {
            'nodes': self.nodes,
            'ntasks-per-node': self._on_a_node,
            'cpus-per-task': self.cpus_per_task,
            'gpus-per-node': self.gpus_per_node,
            'mem': self.memory,
            'time': self.minutes,
            'partition': self.partition,
            'account': self.account,
            'qos': self.qos,
            'constraint': self.constraint,
            'reservation': self.reservation,
            'exclude': self.exclude,
            'mail-user': self.mail,
            'mail-type': 'END,FAIL' if self.mail else '',
        }
        for name, value in given.items():
            if value:
                yield f'--{name}={shlex.quote(str(value))}'
        yield '--requeue'
        for word in shell.words('sbatch', self.sbatch):
            name, equals, value = word.partition('=')
            yield f'{name}={shlex.quote(value)}' if equals else name

    def launcher(self, folders: list[str]) -> list[str]:
        """Returns the words before the arguments of the interpreter.

        Args:
          folders: absolute folders that a container has to see.
        """
        # A process that dies ends all. Since SLURM 22.05 srun does not inherit
        # the number of CPUs from sbatch.
        words = ['srun', '--kill-on-bad-exit=1']
        if self.cpus_per_task:
            words.append(f'--cpus-per-task={self.cpus_per_task}')
        words += shell.words('srun', self.srun)
        python = self.python or sys.executable
        if not self.container:
            return [*words, python]
        python = self.python or 'python'
        mounts = ','.join(f'{folder}:{folder}' for folder in folders)
        if self.container_by == 'pyxis':
            words += [
                f'--container-image={self.container}',
                f'--container-mounts={mounts}',
                f'--container-workdir={folders[0]}',
            ]
            return [*words, python]
        nvidia = ['--nv'] if self.gpus else []
        inside = [f'--bind={mounts}', f'--pwd={folders[0]}', self.container]
        return [*words, 'apptainer', 'exec', *nvidia, *inside, python]


def check_directive(field: str, value: str) -> None:
    """Refuses a value that would end the line of a directive of sbatch.

    Args:
      field: where the value is given.
      value: the value.

    Raises:
      ConfigError: for a value with a line break or the like.
    """
    if not value.isprintable():
        raise ConfigError(field, value, 'printable, for SLURM')
