"""Mixture-of-experts research in JAX; see docs/explanation/architecture.md."""


def load(workdir, step=None, plugins=()):
    """Opens the folder of a trained run.

    Args:
      workdir: the run's folder, a path.
      step: of the checkpoint to read, an int; None is the newest.
      plugins: names of the run's plugins that may be imported, modules and
        files. Those that an installed distribution declares under the entry
        point group `moe.plugins` need not be named.

    Returns:
      A `moe.workloads.trained.TrainedRun`: its `config`, `model`, `variables`,
      `step` and `metrics`, and the methods `logits(inputs)`,
      `routing(inputs)`, `sample(prompt)` of a language model, and
      `predict(files)` of a run on a table.

    Raises:
      ConfigError: for a folder without a run, a checkpoint of that step, or
        a plugin that is not trusted.
    """
    from moe.workloads.load import load  # not before: `import moe` is quick

    return load(workdir, step, plugins)
