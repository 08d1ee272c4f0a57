"""Trials as workloads of a GKE cluster (JobSets), submitted by `xpk`."""

from launch import shell
from launch.backends.tpu_engine import Command, Engine
from launch.trials import Trial


class Xpk(Engine):
    """The engine of GKE workloads, which Kueue schedules."""

    tool = 'xpk'

    def train(self, name: str, trial: Trial) -> list[Command]:
        """Returns commands that submit the workload and wait for its end."""
        # exec: xpk sends SIGTERM to its child, which must be Python.
        python = shell.join(['python', *self.arguments(trial)])
        run = f'{self.exports}exec {python}'
        options = self.options
        return [
            self._command(
                'create',
                f'--workload={name}',
                f'--tpu-type={options.type}',
                f'--num-slices={options.slices}',
                f'--docker-image={options.image}',
                f'--storage={options.bucket}',
                f'--max-restarts={options.preemptions}',
                *options.words,
                f'--command={run}',
            ),
            self._command('list', f'--wait-for-job-completion={name}'),
        ]

    def release(self, name: str) -> list[Command]:
        """Returns the command that deletes the workload, to free its name."""
        return [self._command('delete', f'--workload={name}', '--force')]

    def _command(self, verb: str, *flags: str) -> Command:
        return Command(
            (
                *('xpk', 'workload', verb, f'--cluster={self.options.cluster}'),
                f'--project={self.options.project}',
                f'--zone={self.options.zone}',
                *flags,
            )
        )
