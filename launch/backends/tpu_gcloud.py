"""Trials on TPU VMs, by `gcloud compute tpus queued-resources`.

A pod is a queued resource, of one slice or more. It is claimed once, runs its
share of the trials and is deleted.
"""

from collections.abc import Sequence

from launch import shell
from launch.backends.tpu_engine import SHARED, Command, Engine, Lot
from launch.trials import Trial

# Google's repository of packages, and the fingerprint of the one key whose
# signature is accepted. Source: packages.cloud.google.com/apt/doc/apt-key.gpg,
# 'Artifact Registry Repository Signer'.
_GCSFUSE = '3.8.0'
_PACKAGES = 'https://packages.cloud.google.com/apt'
_SIGNER = '35BAA0B33E9EB396F59CA838C0BA5CE6DC6315A3'
_KEYRING = '/usr/share/keyrings/gcsfuse.gpg'
_INSTALL_GCSFUSE = (
    f'curl -fsSL {_PACKAGES}/doc/apt-key.gpg | gpg --batch --import',
    f'gpg --batch --export {_SIGNER} | sudo tee {_KEYRING} > /dev/null',
    f'echo "deb [signed-by={_KEYRING}] {_PACKAGES} gcsfuse-$(lsb_release -cs) '
    'main" | sudo tee /etc/apt/sources.list.d/gcsfuse.list',
    'sudo apt-get update',
    f'sudo apt-get install --yes gcsfuse={_GCSFUSE}',
)
_UNSENT = r'(.*/)?(\.[^/]+|__pycache__|checkpoints)(/.*)?$|runs/.*'
_CAPACITY = {'on_demand': (), 'spot': ('--spot',), 'reserved': ('--reserved',)}

# The VMs' own Python may be older than ours. uv knows the checksums of those
# that it downloads.
INSTALL = (
    'python3 -m pip install --quiet --user --require-hashes '
    '--requirement=requirements-uv.txt',
    '~/.local/bin/uv venv --quiet --allow-existing --python=3.12 ~/venv',
    '~/.local/bin/uv pip install --quiet --python='
    "$HOME/venv/bin/python --requirement=requirements.txt 'jax[tpu]'",
)


class Gcloud(Engine):
    """The engine of TPU VMs."""

    tool = 'gcloud'

    def lots(self, trials: Sequence[Trial], parallel: int) -> list[Lot]:
        """Divides the trials among as many pods as run at once."""
        return [
            Lot(f'{self.options.name}-{i}', trials[i::parallel])
            for i in range(min(parallel, len(trials)))
        ]

    def prepare(self) -> list[Command]:
        """Returns the command that uploads the working folder, once."""
        return [
            Command(
                (
                    *('gcloud', 'storage', 'rsync', '--recursive'),
                    '--delete-unmatched-destination-objects',
                    *(f'--exclude={_UNSENT}', '.', f'{self.url}/.code'),
                )
            )
        ]

    def claim(self, name: str) -> list[Command]:
        """Returns the command that queues the pod; fails if the pod exists."""
        many = self.options.slices > 1
        nodes = (f'--node-count={self.options.slices}', f'--node-prefix={name}')
        return [
            self._command(
                'create',
                name,
                f'--accelerator-type={self.options.accelerator}',
                f'--runtime-version={self.options.runtime_version}',
                *(nodes if many else (f'--node-id={name}',)),
                *_CAPACITY[self.options.capacity],
            )
        ]

    def state(self, name: str) -> Command:
        """Returns the command that prints ACTIVE when all slices are ready."""
        return self._command('describe', name, '--format=value(state.state)')

    def equip(self, name: str) -> list[Command]:
        """Returns commands that mount the bucket and install the code."""
        # Many hosts write checkpoints: no host may cache the listing. A file is
        # in the bucket when it is closed or synced.
        mount = shell.join(
            [
                *('gcsfuse', '--implicit-dirs', '--metadata-cache-ttl-secs=0'),
                '--metadata-cache-negative-ttl-secs=0',
                '--enable-streaming-writes=false',
                *(self.options.bucket, SHARED),
            ]
        )
        steps = (
            f'(command -v gcsfuse || ({" && ".join(_INSTALL_GCSFUSE)}))',
            f'(mountpoint -q {SHARED} || (sudo mkdir -p {SHARED} && '
            f'sudo chown "$USER" {SHARED} && {mount}))',
            'rm -rf ~/moe',
            f'cp -r {SHARED}/{self.options.name}/.code ~/moe',
            'cd ~/moe',
            *INSTALL,
        )
        return [self._on_all_hosts(name, ' && '.join(steps))]

    def train(self, name: str, trial: Trial) -> list[Command]:
        """Returns the commands that run a trial on all hosts."""
        # A process left by a lost connection would hold the chips. The pattern
        # does not match the shell that runs pkill.
        stop = "pkill --full '[t]rain.py'; true"
        run = shell.join(self.arguments(trial))
        start = f'cd ~/moe && mountpoint -q {SHARED} && '
        return [
            self._on_all_hosts(name, stop),
            self._on_all_hosts(name, f'{start}exec ~/venv/bin/python {run}'),
        ]

    def release(self, name: str) -> list[Command]:
        """Returns the command that deletes the pod and its VMs."""
        return [self._command('delete', name, '--force')]

    def _command(self, verb: str, name: str, *flags: str) -> Command:
        return Command(
            (
                *('gcloud', 'compute', 'tpus', 'queued-resources', verb, name),
                f'--project={self.options.project}',
                f'--zone={self.options.zone}',
                '--quiet',
                *flags,
            )
        )

    def _on_all_hosts(self, name: str, script: str) -> Command:
        return self._command(
            'ssh',
            name,
            *('--node=all', '--worker=all'),
            '--batch-size=all',  # or the first 64 wait for the others
            '--ssh-flag=-oServerAliveInterval=30',  # or a lost host hangs it
            f'--command={script}',
        )
