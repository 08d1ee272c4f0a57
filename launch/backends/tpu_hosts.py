"""What engines of hosts have in common: VMs with ssh and a mounted bucket."""

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
# At a host's boot its own updates hold the lock of the packages.
_WAIT = '-o DPkg::Lock::Timeout=600'
_INSTALL_GCSFUSE = (
    f'curl -fsSL {_PACKAGES}/doc/apt-key.gpg | gpg --batch --import',
    f'gpg --batch --export {_SIGNER} | sudo tee {_KEYRING} > /dev/null',
    f'echo "deb [signed-by={_KEYRING}] {_PACKAGES} gcsfuse-$(lsb_release -cs) '
    'main" | sudo tee /etc/apt/sources.list.d/gcsfuse.list',
    f'sudo apt-get {_WAIT} update',
    f'sudo apt-get {_WAIT} install --yes gcsfuse={_GCSFUSE}',
)
_UNSENT = r'(.*/)?(\.[^/]+|__pycache__|checkpoints)(/.*)?$|runs/.*'

# The VMs' own Python may be older than ours. uv knows the checksums of those
# that it downloads.
INSTALL = (
    'python3 -m pip install --quiet --user --require-hashes '
    '--requirement=requirements-uv.txt',
    '~/.local/bin/uv venv --quiet --allow-existing --python=3.12 ~/venv',
    '~/.local/bin/uv pip install --quiet --python='
    "$HOME/venv/bin/python --requirement=requirements.txt 'jax[tpu]'",
)


class Hosts(Engine):
    """The engines of hosts that are claimed once, run trials, and are deleted.

    Subclasses define `claim`, `state`, `release` and `on_all_hosts`.
    """

    tool = 'gcloud'
    subnetwork = '--subnetwork'  # the flag
    internal = '--internal-ips'

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
        return [self.on_all_hosts(name, ' && '.join(steps))]

    def train(self, name: str, trial: Trial) -> list[Command]:
        """Returns the commands that run a trial on all hosts."""
        # A process left by a lost connection would hold the chips. The pattern
        # does not match the shell that runs pkill.
        stop = "pkill --full '[t]rain.py'; true"
        run = shell.join(self.arguments(trial))
        start = f'cd ~/moe && mountpoint -q {SHARED} && {self.exports}'
        run = f'{start}exec ~/venv/bin/python {run}{self.process}'
        return [self.on_all_hosts(name, stop), self.on_all_hosts(name, run)]

    def flags(self) -> list[str]:
        """Returns the user's flags of the command that makes hosts."""
        options = self.options
        given = {
            '--network': options.network,
            self.subnetwork: options.subnetwork,
            '--service-account': options.service_account,
            '--labels': options.labels,
            '--reservation': options.reservation,
        }
        return [
            *(f'{name}={value}' for name, value in given.items() if value),
            *([self.internal] * options.internal),
            *options.words,
        ]

    @property
    def process(self) -> str:
        """Returns more arguments, as a shell reads them on each host."""
        return ''

    def on_all_hosts(self, name: str, script: str) -> Command:
        """Returns the command that runs a script on all hosts of a pod.

        Args:
          name: name of the pod.
          script: script for a shell.
        """
        raise NotImplementedError
