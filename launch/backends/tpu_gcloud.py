"""Trials on TPU VMs of the Cloud TPU API, by `gcloud compute tpus`.

A pod is a queued resource, of one slice or more. It is claimed once, runs its
share of the trials and is deleted.
"""

from launch.backends.tpu_engine import Command
from launch.backends.tpu_hosts import Hosts

_CAPACITY = {'on_demand': (), 'spot': ('--spot',), 'reserved': ('--reserved',)}


class Gcloud(Hosts):
    """The engine of TPU VMs, in a queued resource a pod."""

    def claim(self, name: str) -> list[Command]:
        """Returns the command that queues the pod; fails if the pod exists."""
        many = self.options.slices > 1
        nodes = (f'--node-count={self.options.slices}', f'--node-prefix={name}')
        return [
            self._command(
                'create',
                name,
                f'--accelerator-type={self.options.type}',
                f'--runtime-version={self.options.runtime_version}',
                *(nodes if many else (f'--node-id={name}',)),
                *_CAPACITY[self.options.capacity],
                *self.flags(),
            )
        ]

    def state(self, name: str) -> Command:
        """Returns the command that prints ACTIVE when all slices are ready."""
        return self._command('describe', name, '--format=value(state.state)')

    def release(self, name: str) -> list[Command]:
        """Returns the command that deletes the pod and its VMs."""
        return [self._command('delete', name, '--force')]

    def _command(self, verb: str, name: str, *flags: str) -> Command:
        # gcloud's alpha commands alone know reservations by name.
        alpha = ('alpha',) if self.options.reservation else ()
        group = ('compute', 'tpus', 'queued-resources')
        return Command(
            (
                *('gcloud', *alpha, *group, verb, name),
                f'--project={self.options.project}',
                f'--zone={self.options.zone}',
                '--quiet',
                *flags,
            )
        )

    def on_all_hosts(self, name: str, script: str) -> Command:
        """Returns the command that runs a script on all hosts of a pod."""
        return self._command(
            'ssh',
            name,
            *('--node=all', '--worker=all'),
            '--batch-size=all',  # or the first 64 wait for the others
            '--ssh-flag=-oServerAliveInterval=30',  # or a lost host hangs it
            *(('--tunnel-through-iap',) if self.options.internal else ()),
            f'--command={script}',
        )
