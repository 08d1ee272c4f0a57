"""Trials as managed jobs of SkyPilot, which restarts them itself."""

import yaml

from launch import shell
from launch.backends.tpu_engine import SHARED, Command, Engine
from launch.backends.tpu_hosts import INSTALL
from launch.trials import Trial


class SkyPilot(Engine):
    """The engine of SkyPilot's managed jobs."""

    tool = 'sky'

    def train(self, name: str, trial: Trial) -> list[Command]:
        """Returns commands that write the task, submit and follow it."""
        path = str(trial.folder / 'skypilot.yaml')
        text = yaml.safe_dump(self.task(name, trial), sort_keys=False)
        return [
            Command(('tee', path), stdin=text),
            Command(
                (
                    *('sky', 'jobs', 'launch', '--yes', f'--name={name}'),
                    *(*self.options.words, path),
                ),
            ),
        ]

    def release(self, name: str) -> list[Command]:
        """Returns the command that cancels the job and deletes its machines."""
        return [Command(('sky', 'jobs', 'cancel', '--yes', f'--name={name}'))]

    def task(self, name: str, trial: Trial) -> dict:
        """Returns the task of a trial, the data of SkyPilot's YAML."""
        run = shell.join(self.arguments(trial))
        return {
            'name': name,
            'resources': {
                'infra': f'gcp/*/{self.options.zone}',
                'accelerators': f'tpu-{self.options.type}:1',
                'accelerator_args': {
                    'runtime_version': self.options.runtime_version
                },
                'use_spot': self.options.capacity == 'spot',
            },
            'workdir': '.',
            'file_mounts': {
                SHARED: {
                    'source': f'gs://{self.options.bucket}',
                    'mode': 'MOUNT',
                }
            },
            'setup': ' && '.join(INSTALL),
            'run': f'{self.exports}exec ~/venv/bin/python {run}',
        }
