"""A run from its config to its folder: train, evaluate, save, go on."""

import contextlib
import json
import math
import pathlib
import signal
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from moe.config import ConfigError, differences
from moe.data import load_text, train_batches, val_batches
from moe.metrics import Writer
from moe.models import generate
from moe.models.lm import active_parameters
from moe.parallel import batch_sharding, make_mesh, parameter_shardings
from moe.parallel.mesh import BATCH_AXES
from moe.training.checkpoint import Checkpoints, abstract_state
from moe.training.config import Config
from moe.training.step import (
    TrainState,
    init_state,
    layer_metrics,
    make_eval_step,
    make_train_step,
    recorded_routing,
)

_MAP_BYTES = 512  # validation text shown with its experts in the report


class Diverged(RuntimeError):
    """The loss is no longer a finite number."""


def run(config: Config, plain: dict[str, Any], workdir: pathlib.Path) -> bool:
    """Trains to the last step, going on from whatever `workdir` holds.

    Writes `config.json`, `corpus.json`, `metrics.jsonl`, `tensorboard/`,
    `checkpoints/` and at the end `sample.txt` and `routing.npz`. On SIGTERM or
    SIGINT it saves a checkpoint and stops.

    Args:
      config: of the run, checked.
      plain: the same config as plain data, kept in `config.json`.
      workdir: the run's folder, made if absent.

    Returns:
      Whether the run is complete.

    Raises:
      ConfigError: for data or devices that do not fit the config, or a folder
        with a different run; nothing is written then.
      Diverged: if the loss is not finite.
    """
    _check_same(workdir / 'config.json', plain, 'config')
    corpus = load_text(config.data)
    described = {
        'train_files': corpus.num_files[0],
        'val_files': corpus.num_files[1],
        'train_bytes': len(corpus.train),
        'val_bytes': len(corpus.val),
        'fingerprint': corpus.fingerprint,
    }
    _check_same(workdir / 'corpus.json', described, 'corpus')
    mesh = make_mesh(config.mesh)
    ways = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if config.data.batch_size % (ways * config.optimizer.accumulation):
        allowed = f'a multiple of {ways} devices x accumulation'
        raise ConfigError(
            'config.data.batch_size', config.data.batch_size, allowed
        )
    main = jax.process_index() == 0
    if main:
        workdir.mkdir(parents=True, exist_ok=True)
        _write_json(workdir / 'config.json', plain)
        _write_json(workdir / 'corpus.json', described)
    with jax.set_mesh(mesh), _stop_signals() as stopped:
        return _Run(config, workdir, corpus, mesh).train(stopped)


class _Run:
    """The moving parts of one run."""

    def __init__(self, config, workdir, corpus, mesh):
        self._config, self._workdir, self._corpus = config, workdir, corpus
        self._main = jax.process_index() == 0
        self._hosts = (jax.process_index(), jax.process_count())
        self._batches = batch_sharding(mesh)
        make = lambda: init_state(config)
        shardings = parameter_shardings(mesh, jax.eval_shape(make))
        self._checkpoints = Checkpoints(workdir, config.keep_checkpoints)
        self._data = train_batches(
            corpus, config.data, config.seed, *self._hosts
        )
        self.start = self._checkpoints.latest() or 0
        if self.start:
            like = abstract_state(config, shardings)
            self.state, data = self._checkpoints.restore(self.start, like)
            self._data.set_state(data)
        else:
            self.state = jax.jit(make, out_shardings=shardings)()
        self._train_step = jax.jit(
            make_train_step(config),
            donate_argnums=0,
            out_shardings=(shardings, None),
        )
        self._eval_step = jax.jit(make_eval_step(config))
        self._writer = Writer(workdir, self.start, self._main)
        self._progress = _Progress(config, self.start)
        self._pending: list[tuple[int, Any, Any]] = []

    def train(self, stopped: list[int]) -> bool:
        """Steps until the end or a signal; True at the end."""
        config = self._config
        self._announce()
        step = self.start
        with contextlib.closing(self._checkpoints):
            while step < config.steps and not stopped:
                tokens = self._global(next(self._data))
                self.state, metrics = self._train_step(self.state, tokens)
                step += 1
                # Only now: the device is busy with the step just started.
                self._write_pending()
                last = step == config.steps
                evaluation = None
                if last or step % config.eval_every == 0:
                    evaluation = self._evaluate()
                if evaluation or step == 1 or step % config.log_every == 0:
                    self._pending.append((step, metrics, evaluation))
                if last or step % config.checkpoint_every == 0:
                    self._save(step)
            self._write_pending()
            if step < config.steps:
                self._save(step)
                self._say(f'stopped at step {step}; the same command goes on')
        if step == config.steps:
            self._finish()
        self._writer.close()
        return step == config.steps

    def _save(self, step):
        self._checkpoints.save(step, self.state, self._data.get_state())

    def _global(self, rows: np.ndarray) -> jax.Array:
        """This host's rows as its share of the global batch."""
        return jax.make_array_from_process_local_data(self._batches, rows)

    def _evaluate(self) -> list:
        """Sums over the whole validation text, still on the device."""
        data = self._config.data
        return [
            self._eval_step(self.state, self._global(t), self._global(m))
            for t, m in val_batches(self._corpus, data, *self._hosts)
        ]

    def _write_pending(self):
        for step, metrics, evaluation in self._pending:
            metrics, sums = jax.device_get((metrics, evaluation))
            stats = metrics.pop('moe', {})
            values = {name: float(x) for name, x in metrics.items()}
            values |= layer_metrics(self._config, stats)
            if sums is not None:
                loss = sum(float(s) for s, _ in sums)
                loss /= sum(float(n) for _, n in sums)
                values['eval/loss'] = loss
                values['eval/bits_per_byte'] = loss / math.log(2)
            self._say(self._progress.line(step, values))
            self._writer.write_scalars(step, values)
            if not math.isfinite(values['train/loss']):
                self._writer.close()
                raise Diverged(
                    f'train/loss is {values["train/loss"]} at step {step}: '
                    'try a lower config.optimizer.learning_rate'
                )
        self._pending = []

    def _announce(self):
        total, active = active_parameters(self._config.model, self.state.params)
        corpus = self._corpus
        self._say(
            f'{total:,} parameters, {active:,} active a token; '
            f'{len(corpus.train):,} bytes to train on in '
            f'{corpus.num_files[0]} files, {len(corpus.val):,} to validate on '
            f'in {corpus.num_files[1]}; {jax.device_count()} '
            f'{jax.devices()[0].platform} device(s)'
        )
        if self.start:
            self._say(f'going on from step {self.start}')

    def _finish(self):
        """Leaves a sample and a routed piece of text for the report."""
        path = self._workdir / 'sample.txt'
        if path.exists():
            return
        config, state = self._config, self.state
        text = config.sample_prompt
        if config.sample_length and text:
            text += sample(config, state, text, config.sample_length)
        if config.model.moe_every:
            tokens = self._piece()
            aux = recorded_routing(config, state, tokens)
            if self._main:
                _write_routing(self._workdir / 'routing.npz', tokens, aux)
        if self._main:
            path.write_text(text)
            self._writer.write_texts(config.steps, {'sample': text})

    def _piece(self) -> jax.Array:
        """Sequences from the middle of the validation text, [B, S]."""
        span, text = self._config.data.seq_len, self._corpus.val
        count = max(1, min(_MAP_BYTES, len(text)) // span)
        start = (len(text) - count * span) // 2
        piece = text[start : start + count * span]
        return jnp.asarray(piece, jnp.int32).reshape(count, span)

    def _say(self, line):
        if self._main:
            print(line, flush=True)


def sample(
    config: Config,
    state: TrainState,
    prompt: str,
    length: int,
    *,
    seed: int = 0,
    temperature: float = 0.7,
    top: int = 0,
) -> str:
    """Continues a text.

    Args:
      config: of the run.
      state: of the run.
      prompt: text to continue, at least one byte.
      length: bytes to generate.
      seed: of the draw.
      temperature: divides the logits; 0 takes the likeliest byte.
      top: draws among the likeliest bytes only; 0 among all.

    Returns:
      The continuation; bytes that are not UTF-8 are shown as marks.
    """
    variables = {'params': state.params, **state.router_state}
    tokens = np.frombuffer(prompt.encode(), np.uint8).astype(np.int32)
    size, span = len(tokens), config.data.seq_len
    key = jax.random.key(seed)
    while len(tokens) < size + length:
        # Positions past those trained on mean nothing: go on from the last
        # half of the span.
        window = tokens if len(tokens) < span else tokens[-(span // 2) :]
        out = generate(
            config.model,
            variables,
            window[None],
            jax.random.fold_in(key, len(tokens)),
            length=min(span - len(window), size + length - len(tokens)),
            temperature=temperature,
            top=top,
        )
        tokens = np.concatenate([tokens, np.asarray(out[0])])
    raw = tokens[size:].astype(np.uint8).tobytes()
    return raw.replace(b'\0', b'\n').decode(errors='replace')


class _Progress:
    """Speed and time left, measured between the lines it makes."""

    def __init__(self, config: Config, start: int):
        self._tokens = config.data.batch_size * config.data.seq_len
        self._steps = config.steps
        self._last = (start, time.perf_counter())
        self._rate = 0.0

    def line(self, step: int, values: dict[str, float]) -> str:
        now = time.perf_counter()
        last, then = self._last
        self._last = (step, now)
        if last and step > last:
            self._rate = (step - last) / (now - then)
        values['train/tokens_per_second'] = self._rate * self._tokens
        left = round((self._steps - step) / self._rate) if self._rate else 0
        parts = [
            f'step {step:>{len(str(self._steps))}}/{self._steps}',
            f'loss {values["train/loss"]:.4f}',
            f'{self._rate * self._tokens:,.0f} tokens/s',
            f'{left // 60}m{left % 60:02}s left',
        ]
        loads = [v for k, v in values.items() if k.endswith('/load_max')]
        if loads:
            parts.append(f'max load {max(loads):.2f}')
        if 'eval/bits_per_byte' in values:
            bits = values['eval/bits_per_byte']
            parts.append(f'validation {bits:.4f} bits/byte')
        return '  '.join(parts)


def _check_same(path: pathlib.Path, now: dict, what: str) -> None:
    """Refuses a folder whose earlier run was of something else."""
    if path.exists():
        lines = list(differences(json.loads(path.read_text()), now, what))
        if lines:
            allowed = 'a new folder, or one of the same run: ' + '; '.join(
                lines
            )
            raise ConfigError('workdir', str(path.parent), allowed)


def _write_json(path: pathlib.Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + '\n')


def _write_routing(path, tokens, aux) -> None:
    """First-choice expert of every token, by mixture layer: [L, T]."""
    expert = np.asarray(aux.routing.expert)  # [L, G, K, S]
    first = expert[:, :, 0].reshape(expert.shape[0], -1)
    np.savez(path, tokens=np.asarray(tokens, np.uint8).reshape(-1), first=first)


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT instead of dying of them."""
    seen: list[int] = []
    handler = lambda number, frame: seen.append(number)
    try:
        old = {
            s: signal.signal(s, handler)
            for s in (signal.SIGTERM, signal.SIGINT)
        }
    except ValueError:  # not the main thread
        yield seen
        return
    try:
        yield seen
    finally:
        for number, previous in old.items():
            signal.signal(number, previous)
