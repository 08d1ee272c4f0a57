"""Feature layers: numbers and categories of a row as one vector.

B examples, F numeric inputs, C categorical columns, D width of the result.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Shaped

from moe.config import NaturalInt, PositiveInt, Registry
from moe.parameters import parameter

# Embeddings with entries of standard deviation 0.05.
_INIT = nn.initializers.normal(0.05)


FEATURES = Registry('kind of features')


@FEATURES.register('embedding')
class Embedding(nn.Module):
    """Numbers, one-hot categories and embeddings, side by side.

    Tables with embeddings of one width are stacked: one gather for them all.
    An id beyond its table is id 0, the unknown category.

    Attributes:
      sizes: number of ids of each table of categories, with id 0.
      table_of: index of the table of each of the C columns; columns may share
        one.
      width: width of the embeddings; None for min(16, round(1.6 n^0.56)) for a
        table of n ids.
      onehot_up_to: largest number of ids of a table that is one-hot encoded
        instead of embedded; 0 embeds all.
    """

    sizes: tuple[int, ...]
    table_of: tuple[int, ...]
    width: PositiveInt | None = None
    onehot_up_to: NaturalInt = 0

    def width_of(self, size: int) -> int | None:
        """Returns the width of a table's embeddings; None if it is one-hot.

        Args:
          size: number of ids of the table.
        """
        if size <= self.onehot_up_to:
            return None
        return self.width or max(1, min(16, round(1.6 * size**0.56)))

    @nn.compact
    def __call__(
        self, batch: Mapping[str, Shaped[Array, 'B ...']]
    ) -> Float[Array, 'B D']:
        """Concatenates the features of each example.

        Args:
          batch: 'numeric', float32 [B, F], and with columns of categories
            'categorical', int32 [B, C]; the rest is ignored.

        Returns:
          float32 [B, D]: the numbers, the one-hot columns, then the embedded
          ones, narrow ones first.
        """
        numeric = jnp.asarray(batch['numeric'], jnp.float32)
        if not self.table_of:
            return numeric
        parts, ids = [numeric], batch['categorical']
        size_of = np.array([self.sizes[t] for t in self.table_of])
        ids = jnp.where((ids >= 0) & (ids < size_of), ids, 0)
        widths = [self.width_of(size) for size in size_of.tolist()]
        if onehot := [c for c, width in enumerate(widths) if width is None]:
            # Entry p of the result is id `at[p]` of column `column[p]`.
            column = np.repeat(onehot, size_of[onehot])
            at = np.concatenate([np.arange(n) for n in size_of[onehot]])
            parts.append((ids[:, column] == at).astype(jnp.float32))
        for width in sorted({w for w in widths if w is not None}):
            columns = [c for c, own in enumerate(widths) if own == width]
            parts.append(self._embedded(ids, width, columns))
        return jnp.concatenate(parts, axis=-1)

    def _embedded(self, ids: Any, width: int, columns: list[int]) -> Any:
        """Looks columns up in the joined table of all tables of a width.

        Returns:
          Float32 [B, columns * width].
        """
        tables = sorted({self.table_of[c] for c in columns})
        first = np.cumsum([0, *(self.sizes[t] for t in tables)])
        offset = [int(first[tables.index(self.table_of[c])]) for c in columns]
        shape = (int(first[-1]), width)
        table = parameter(
            self,
            f'embedding_{width}',
            _INIT,
            shape,
            decay=True,
            multiplied=False,
        )
        rows = jnp.take(table, ids[:, columns] + np.array(offset), axis=0)
        return rearrange(rows, 'b c w -> b (c w)')
