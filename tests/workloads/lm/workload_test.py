"""The language-model task: losses of targets, and samples."""

import jax
import jax.numpy as jnp
import numpy as np

from moe import training
from moe.workloads.lm import workload as language
from moe.workloads.lm.workload import token_losses
from tests import tiny


def test_token_losses():
    # Three logits, of which the target has a share of 1/2, 1/4 and 1.
    logits = jnp.log(jnp.array([[[2, 1, 1], [2, 1, 1], [1e-30, 1, 1e-30]]]))
    found = token_losses(logits, jnp.array([[0, 2, 1]]))
    desired = [[np.log(2), np.log(4), 0]]
    np.testing.assert_allclose(found, desired, atol=1e-6)


def test_sample_stays_within_the_positions_trained_on(monkeypatch):
    # 16 positions: 4 and 12 more, then 8 and 8 more, then 8 and 2 more.
    windows = []

    def fake(config, variables, prompt, key, *, length, temperature, top):
        windows.append((bytes(np.asarray(prompt[0], np.uint8)), length))
        assert (temperature, top) == (0.5, 3)
        return jnp.arange(length)[None] + ord('a') + 12 * (len(windows) - 1)

    monkeypatch.setattr(language, 'generate', fake)
    config = tiny.parsed()
    text = language.sample(config, {}, 'def ', 22, temperature=0.5, top=3)
    assert windows == [(b'def ', 12), (b'efghijkl', 8), (b'mnopqrst', 2)]
    assert text == 'abcdefghijklmnopqrstyz'
    # Of a long prompt only the end is read.
    windows.clear()
    language.sample(config, {}, 'x' * 30 + 'y' * 8, 3, temperature=0.5, top=3)
    assert windows == [(b'y' * 8, 3)]


def test_bytes_that_are_no_text_are_shown_as_marks(monkeypatch):
    # A zero byte ends a file; a byte above 127 alone is not UTF-8.
    made = jnp.array([[104, 105, 0, 255]])
    monkeypatch.setattr(language, 'generate', lambda *args, **options: made)
    config = tiny.parsed()
    assert language.sample(config, {}, 'x', 4) == 'hi\n\ufffd'


def test_parameters_with_more_groups_than_tokens_of_a_sequence():
    # 32 groups of a batch of 8 sequences of 16: one sequence has half of them.
    changes = {'model.moe.num_groups': 32, 'data.seq_len': 16}
    many = jax.eval_shape(lambda: training.init_state(tiny.parsed(changes)))
    one = jax.eval_shape(lambda: training.init_state(tiny.parsed()))
    assert many.params == one.params
