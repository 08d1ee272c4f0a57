"""Pictures as PNG files, of whatever is logged of every expert.

N columns of time, E experts.
"""

import struct
import zlib
from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Float

_SHADES = 16  # of blue below 1, and as many of red above it
_HEIGHT = 128  # pixels, about; few experts have thick rows
_COLUMNS = 256  # N, at most
# Ends of the colours, as matplotlib's RdBu has them.
_BLUE, _RED = (5, 48, 97), (103, 0, 31)


def load_picture(loads: Float[np.ndarray, 'N E']) -> tuple[bytes, int, int]:
    """Draws the load of every expert over time: blue below 1, red above it.

    Args:
      loads: load over the uniform one; 0 is the darkest blue, 2 the darkest
        red, white is 1.

    Returns:
      A PNG, an expert a row and a column a step, its height and its width.
    """
    share = np.clip(np.nan_to_num(loads.T), 0.0, 2.0)
    index = np.round(share * _SHADES).astype(np.uint8)
    thick = max(1, _HEIGHT // index.shape[0])
    wide = max(1, _COLUMNS // index.shape[1])
    index = index.repeat(thick, axis=0).repeat(wide, axis=1)
    return _png(index, _palette()), *index.shape


def _palette() -> np.ndarray:
    """Returns the colours from blue over white to red, uint8 [C, 3]."""
    to_white = np.linspace(0.0, 1.0, _SHADES + 1)[:, None]
    halves = [
        (1 - to_white) * np.array(end) + to_white * 255 for end in (_BLUE, _RED)
    ]
    return np.concatenate([halves[0], halves[1][-2::-1]]).astype(np.uint8)


def _png(index: np.ndarray, palette: np.ndarray) -> bytes:
    """Returns the PNG of indexed colours. Source: PNG specification, W3C."""
    height, width = index.shape
    rows = b''.join(b'\0' + row.tobytes() for row in index)
    head = struct.pack('>IIBBBBB', width, height, 8, 3, 0, 0, 0)
    chunks = {
        b'IHDR': head,
        b'PLTE': palette.tobytes(),
        b'IDAT': zlib.compress(rows),
        b'IEND': b'',
    }
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(data))
        + kind
        + data
        + struct.pack('>I', zlib.crc32(kind + data))
        for kind, data in chunks.items()
    )


class LoadHistory:
    """The loads of a run so far, of `_COLUMNS` evenly spaced lines at most."""

    def __init__(self):
        self._lines: dict[str, list] = {}
        self._seen: dict[str, int] = {}
        self._every: dict[str, int] = {}

    def add(self, metrics: Mapping[str, object]) -> list[str]:
        """Adds the loads of a line, metrics `moe/LAYER/load`.

        Args:
          metrics: metrics of the line.

        Returns:
          The names whose picture is due: after 2, 4, 8, ... lines.
        """
        due = []
        for name, value in metrics.items():
            if not (name.startswith('moe/') and name.endswith('/load')):
                continue
            lines = self._lines.setdefault(name, [])
            every = self._every.setdefault(name, 1)
            seen = self._seen.get(name, 0)
            if seen % every == 0:
                lines.append(np.asarray(value, np.float32))
            if len(lines) == _COLUMNS:
                self._lines[name], self._every[name] = lines[::2], 2 * every
            self._seen[name] = seen = seen + 1
            if seen > 1 and seen & (seen - 1) == 0:
                due.append(name)
        return due

    def names(self) -> Iterable[str]:
        """Returns all names that have been added."""
        return self._lines.keys()

    def picture(self, name: str) -> tuple[bytes, int, int]:
        """Returns the picture of a load so far, see `load_picture`.

        Args:
          name: name of the metric.
        """
        return load_picture(np.stack(self._lines[name]))
