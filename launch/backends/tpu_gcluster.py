"""Trials as JobSets on a GKE cluster, submitted by Cluster Toolkit's gcluster.

Source: docs.cloud.google.com/cluster-toolkit/docs/reference/gcluster-job-submit
and its program's own flags (cmd/job/submit.go, v1.95), read in November 2026.
"""

from launch import shell
from launch.backends.tpu_engine import SHARED, Command, Engine
from launch.trials import Trial


class Gcluster(Engine):
    """The engine of GKE workloads that Cluster Toolkit submits."""

    tool = 'gcluster'

    def train(self, name: str, trial: Trial) -> list[Command]:
        """Returns the command that submits the job and waits for its end."""
        options, piece = self.options, self.piece
        run = 'exec ' + shell.join(['python', *self.arguments(trial)])
        return [
            self._command(
                'submit',
                f'--name={name}',
                f'--image={options.image}',
                f'--compute-type={piece.chip.type or piece.name}',
                f'--topology={piece.topology}',
                f'--num-slices={options.slices}',
                # One process a host: JAX drives all chips of one.
                '--gke-disable-parallel-containers',
                f'--mount=gs://{options.bucket}:{SHARED}:rw',
                f'--restarts={options.preemptions}',
                *self._optional(),
                *options.words,
                '--await-job-completion',
                f'--command={self.exports}{run}',
            )
        ]

    def release(self, name: str) -> list[Command]:
        """Returns the command that deletes the job, to free its name."""
        return [self._command('cancel', name)]

    def _optional(self) -> list[str]:
        options, flags = self.options, []
        if options.service_account:
            flags.append(f'--service-account={options.service_account}')
        if options.reservation:
            flags += [
                '--gke-nap-provisioning=reservation',
                f'--gke-nap-reservation={options.reservation}',
            ]
        return flags

    def _command(self, verb: str, *arguments: str) -> Command:
        return Command(
            (
                *('gcluster', 'job', verb, f'--cluster={self.options.cluster}'),
                f'--project={self.options.project}',
                f'--location={self.options.zone}',
                *arguments,
            )
        )
