"""Trials on TPU hosts of Compute Engine, in a managed instance group a pod.

Sources: docs.cloud.google.com/compute/docs/tpus/create-tpu-mig-multi-host-slice
and .../tpu/docs/consume-reservation-compute, read in November 2026.
"""

from launch import shell
from launch.backends.tpu_engine import Command
from launch.backends.tpu_hosts import Hosts

_PORT = 8476
_PROJECT = 'ubuntu-os-accelerator-images'
_DISK = '200GB'
_CAPACITY = {
    'on_demand': (),
    'spot': ('--provisioning-model=SPOT', '--instance-termination-action=STOP'),
    'reserved': ('--provisioning-model=RESERVATION_BOUND',),
}
_ENDED = {'STOPPING', 'STOPPED', 'SUSPENDING', 'SUSPENDED', 'TERMINATED'}
# Runs a script on all hosts of a group at once, and fails if one fails. There
# NUMBER is the host's place, and ZERO the name of the first one.
_EVERYWHERE = """\
hosts=$({list} < /dev/null | sort)
[ "$hosts" ] || exit 1
zero=$(head -n1 <<< "$hosts") number=0 running=
for host in $hosts; do
  {ssh} "$host" --command="NUMBER=$number ZERO=$zero; "{script} < /dev/null &
  running="$running $!" number=$((number + 1))
done
failed=0
for one in $running; do wait "$one" || failed=1; done
exit $failed
"""


class Compute(Hosts):
    """The engine of Compute Engine's hosts; of one slice a pod."""

    subnetwork = '--subnet'
    internal = '--no-address'

    @property
    def process(self) -> str:
        """Returns the arguments by which processes find each other."""
        return (
            f' --coordinator="$ZERO:{_PORT}" --processes={self.piece.hosts} '
            '--process="$NUMBER"'
        )

    def claim(self, name: str) -> list[Command]:
        """Returns commands that make the group; the last fails if it exists."""
        options, piece = self.options, self.piece
        group = [
            f'--size={piece.hosts}',
            f'--template={self._place("instanceTemplates", name)}',
            '--default-action-on-vm-failure=do-nothing',
        ]
        commands = []
        if piece.hosts > 1:
            policy = self._in_region(
                ('resource-policies', 'create', 'workload-policy', name),
                '--type=HIGH_THROUGHPUT',
                f'--accelerator-topology={piece.topology}',
            )
            commands.append(policy)
            group += [
                f'--workload-policy={self._place("resourcePolicies", name)}',
                '--target-size-policy-mode=bulk',
            ]
        template = self._command(
            ('instance-templates', 'create', name),
            f'--instance-template-region={self._region}',
            f'--machine-type={piece.chip.machine}',
            f'--image-family={options.runtime or piece.chip.image}',
            f'--image-project={_PROJECT}',
            f'--boot-disk-size={_DISK}',
            '--maintenance-policy=TERMINATE',
            '--scopes=cloud-platform',
            *_CAPACITY[options.capacity],
            *(['--reservation-affinity=specific'] * bool(options.reservation)),
            *self.flags(),
        )
        made = self._in_zone(
            ('instance-groups', 'managed', 'create', name), *group
        )
        return [*commands, template, made]

    def state(self, name: str) -> Command:
        """Returns the command that prints the state of every host."""
        return self._list(name, 'instanceStatus')

    def read_state(self, answer: str) -> str:
        """Returns ACTIVE if all hosts run, SUSPENDED if one has stopped."""
        found, hosts = answer.split(), self.piece.hosts
        if _ENDED.intersection(found):
            return 'SUSPENDED'
        running = found.count('RUNNING')
        if running == hosts:
            return 'ACTIVE'
        return f'{running} of {hosts} hosts run'

    def release(self, name: str) -> list[Command]:
        """Returns commands that delete the group, and what it was made of."""
        commands = [
            self._in_zone(('instance-groups', 'managed', 'delete', name)),
            self._command(
                ('instance-templates', 'delete', name),
                f'--region={self._region}',
            ),
        ]
        if self.piece.hosts > 1:
            commands.append(
                self._in_region(('resource-policies', 'delete', name))
            )
        return commands

    def on_all_hosts(self, name: str, script: str) -> Command:
        """Returns the command that runs a script on all hosts of a pod."""
        ssh = self._in_zone(
            ('ssh',),
            '--ssh-flag=-oServerAliveInterval=30',  # or a lost host hangs it
            *(('--tunnel-through-iap',) if self.options.internal else ()),
        )
        text = _EVERYWHERE.format(
            list=self._list(name, 'name'), ssh=ssh, script=shell.join([script])
        )
        return Command(('bash', '-s'), stdin=text)

    def _list(self, name: str, column: str) -> Command:
        return self._in_zone(
            ('instance-groups', 'managed', 'list-instances', name),
            f'--format=value({column})',
        )

    @property
    def _region(self) -> str:
        return self.options.zone.rpartition('-')[0]

    def _place(self, kind: str, name: str) -> str:
        project = self.options.project
        return f'projects/{project}/regions/{self._region}/{kind}/{name}'

    def _in_region(self, words: tuple[str, ...], *flags: str) -> Command:
        return self._command(words, f'--region={self._region}', *flags)

    def _in_zone(self, words: tuple[str, ...], *flags: str) -> Command:
        return self._command(words, f'--zone={self.options.zone}', *flags)

    def _command(self, words: tuple[str, ...], *flags: str) -> Command:
        project = f'--project={self.options.project}'
        return Command(
            ('gcloud', 'compute', *words, project, '--quiet', *flags)
        )
