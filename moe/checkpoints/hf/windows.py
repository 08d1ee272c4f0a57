"""The entry of windows of attention that only some layers have."""

from collections.abc import Callable, Mapping
from typing import Any

from moe.checkpoints.hf.fields import Entry
from moe.config import ConfigError

_KINDS = ('full_attention', 'sliding_attention')
_NAMES = ('layer_types', 'sliding_window', 'max_window_layers')


def layer_types(
    rule: Callable[[Mapping[str, Any], int], bool], switch: str | None = None
) -> Entry:
    """Returns the entry of `layer_types` and `sliding_window`.

    Args:
      rule: whether a layer has the window where `layer_types` does not say it,
        a function of a `config.json` and the number of the layer.
      switch: the field that must be true for any window; None without one.
    """
    names = (*_NAMES, switch) if switch else _NAMES

    def read(given):
        count = given['num_hidden_layers']
        kinds = given.get('layer_types')
        used = bool(given.get(switch)) if switch else True
        window = given.get('sliding_window') if used else None
        if kinds is None:
            chosen = [i for i in range(count) if rule(given, i)]
        else:
            if len(kinds) != count or set(kinds) - set(_KINDS):
                allowed = f'{count} of {" and ".join(_KINDS)}'
                raise ConfigError('layer_types', kinds, allowed)
            chosen = [i for i in range(count) if kinds[i] == _KINDS[1]]
            if chosen and not window and switch:
                allowed = f'a window, as layer_types has it ({switch})'
                raise ConfigError('sliding_window', window, allowed)
        if not window or not chosen:
            return {}
        found = {'sliding_window': window}
        if len(chosen) < count:
            found['window_layers'] = tuple(chosen)
        return found

    def write(model):
        window, count = model.get('sliding_window'), model['num_layers']
        layers = model.get('window_layers')
        chosen = range(count) if layers is None else layers
        if window is None:
            chosen = ()
        found: dict[str, Any] = {
            'layer_types': [_KINDS[i in chosen] for i in range(count)]
        }
        # Without a switch there has to be a number, which no layer reads.
        if switch or window is not None:
            found['sliding_window'] = window
        return found | ({switch: window is not None} if switch else {})

    return Entry(names, read, write)
