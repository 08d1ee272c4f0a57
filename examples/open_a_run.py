"""A trained language model, opened as in a notebook.

    make train
    python -m examples.open_a_run runs/quickstart

Each `# %%` begins a cell for editors that run a script by cells. `moe.load`
gives the run's config, model, variables and metrics, its logits for any
input, who went to which expert, and samples.
"""

import sys

import numpy as np

import moe


def main(folder: str = 'runs/quickstart', prompt: str = 'import numpy') -> dict:
    """Prints what a run is and does, and returns what it printed from."""
    # %% Open the newest checkpoint; `step=...` takes an older one.
    run = moe.load(folder)
    mixture = run.config.model.moe
    print(f'step {run.step}: {mixture.num_experts} experts a layer')

    # %% Curves, as arrays to plot: the steps and the values of each metric.
    for name in sorted(run.metrics):
        if name.startswith('eval/'):
            steps, values = run.metrics[name]
            print(f'{name}: {values[0]:.3f} -> {values[-1]:.3f} at {steps[-1]}')

    # %% Logits, and the most likely next byte after each position.
    logits = run.logits(prompt)  # [1, S, V]
    print('guessed:', bytes(np.argmax(logits[0], axis=-1).astype(np.uint8)))

    # %% Who went where, with what weight, layer by layer.
    layers = run.routing(prompt)
    for layer in layers:
        print(layer.place)
        for byte, weight in zip(prompt.encode(), layer.weight[0], strict=True):
            experts = np.argsort(-weight)[: np.count_nonzero(weight)]
            parts = [f'{e} ({weight[e]:.2f})' for e in experts]
            print(f'  {bytes([byte])} to {", ".join(parts)}')

    # %% A sample.
    text = run.sample(prompt, length=100)
    print(prompt + text)
    return {'logits': logits, 'layers': layers, 'text': text}


if __name__ == '__main__':
    main(*sys.argv[1:])
