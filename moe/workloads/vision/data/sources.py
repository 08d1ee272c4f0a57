"""Data sources of labelled images.

N images, H rows, W columns and C channels of pixels.
"""

import lzma
import math
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np

from moe.config import ConfigError, Registry, Within
from moe.workloads.data_files import check_memory

SOURCES = Registry('source of images')
Arrays = dict[str, np.ndarray]
ValFraction = Annotated[float, Within(0.0, 0.5)]

_UNREADABLE = (
    OSError,
    EOFError,
    KeyError,
    MemoryError,
    OverflowError,
    RuntimeError,  # an encrypted member, or a header that nests too deep
    ValueError,
    lzma.LZMAError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# Of a pixel, while it is read and standardised: copies in float32 and float64.
_BYTES = 24
_FILES = 'config.data.source.files'


class LabelledImages(NamedTuple):
    """Disjoint training and validation images, as a source returns them.

    Attributes:
      train: pixels, float32 [N, H, W, C], and labels, integers [N] from 0.
      val: pixels and labels of the validation images, of the same kinds.
    """

    train: tuple[np.ndarray, np.ndarray]
    val: tuple[np.ndarray, np.ndarray]


@SOURCES.register('digits')
def digits(*, val_fraction: ValFraction = 0.25) -> LabelledImages:
    """Reads the handwritten digits of scikit-learn, 8 x 8 pixels.

    Args:
      val_fraction: share of the images that are for validation.

    Returns:
      The images, with pixels from 0 to 1.

    Raises:
      ConfigError: if scikit-learn is not installed, or there would be no
        validation image.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        allowed = "'npz' with a path, as scikit-learn is not installed"
        raise ConfigError(
            'config.data.source.name', 'digits', allowed
        ) from None
    found = load_digits()
    return held_out(found.images / 16, found.target, val_fraction)


@SOURCES.register('npz')
def npz(*, files: str, val_fraction: ValFraction = 0.25) -> LabelledImages:
    """Reads an archive of arrays that NumPy wrote.

    Args:
      files: path of an .npz with pixels `x` [N, H, W] or [N, H, W, C], uint8
        or float, and integer labels `y` [N] from 0; it may have `x_val` and
        `y_val` too.
      val_fraction: share of `x` that is for validation, without `x_val`.

    Returns:
      The images; bytes become shares of 255.

    Raises:
      ConfigError: for a file without such arrays.
    """
    arrays = read_arrays(files)
    x, y = pixels(arrays['x']), arrays['y']
    if 'x_val' not in arrays:
        return held_out(x, y, val_fraction)
    val = pixels(arrays['x_val']), arrays['y_val']
    if not len(val[0]):
        allowed = 'images in x_val and y_val (there are 0)'
        raise ConfigError(_FILES, files, allowed)
    return LabelledImages((x, y), val)


def held_out(
    x: np.ndarray, y: np.ndarray, val_fraction: float
) -> LabelledImages:
    """Splits off a share of images for validation.

    The split is one fixed permutation, whatever the seed of a run.

    Args:
      x: pixels, as `pixels` takes them.
      y: labels, integers [N].
      val_fraction: share of the images that are for validation.

    Raises:
      ConfigError: if there would be no validation image.
    """
    x = pixels(x)
    order = np.random.default_rng(0).permutation(len(x))
    val, train = np.split(order, [round(val_fraction * len(x))])
    if not len(val):
        raise ConfigError(
            'config.data.source.val_fraction',
            val_fraction,
            f'a share of at least one image (there are {len(x)})',
        )
    return LabelledImages((x[train], y[train]), (x[val], y[val]))


def pixels(x: np.ndarray) -> np.ndarray:
    """Returns pixels as float32 [N, H, W, C].

    Args:
      x: [N, H, W] or [N, H, W, C]; bytes become shares of 255.
    """
    if x.ndim == 3:
        x = x[..., None]
    scale = 255 if x.dtype == np.uint8 else 1
    with np.errstate(over='ignore'):  # infinite pixels are refused later
        return x.astype(np.float32) / np.float32(scale)


def read_arrays(files: str, field: str = _FILES) -> Arrays:
    """Reads the arrays x, y, and perhaps x_val and y_val, of an .npz.

    Args:
      files: path of the file.
      field: the field that names it, for messages.

    Returns:
      The arrays by name, of fitting shapes and types.

    Raises:
      ConfigError: for a file without such arrays.
    """

    def refuse(allowed):
        return ConfigError(field, files, allowed)

    arrays = read_npz(files, field, ('x', 'y', 'x_val', 'y_val'))
    wanted = {'x', 'y'}
    if {'x_val', 'y_val'} & set(arrays):
        wanted |= {'x_val', 'y_val'}
    if missing := sorted(wanted - set(arrays)):
        raise refuse(f'an .npz file that has also {", ".join(missing)}')
    for suffix in ('', '_val') if 'x_val' in arrays else ('',):
        _check(arrays, suffix, refuse)
    return arrays


def read_npz(files: str, field: str, names: Sequence[str]) -> Arrays:
    """Reads arrays of an .npz file, of which nothing is executed.

    Args:
      files: path of the file.
      field: the field that names it, for messages.
      names: names of the arrays, those that are there.

    Raises:
      ConfigError: for another file, or one that memory has no room for.
    """

    def refuse(allowed):
        return ConfigError(field, files, allowed)

    path = pathlib.Path(files)
    if not path.is_file():
        what = 'there is no such file'
        if path.is_dir():
            what = 'it is a folder: data.source.name=folder reads folders'
        raise refuse(f'the path of an .npz file ({what})')
    if not zipfile.is_zipfile(path):
        raise refuse('an .npz file (it is no archive of arrays)')
    try:
        with (
            path.open('rb') as file,
            np.load(file, allow_pickle=False) as found,
        ):
            there = [name for name in names if name in found]
            size = sum(_size(found.zip, name) for name in there)
            check_memory(size, field, files)
            return {name: np.asarray(found[name]) for name in there}
    except ConfigError:
        raise
    except _UNREADABLE as error:
        raise refuse(f'an .npz file that can be read ({error})') from None


def _size(archive: zipfile.ZipFile, name: str) -> int:
    """Returns the bytes that an array will take, by its header alone.

    Raises:
      ValueError: if the header promises another array than is there.
    """
    info = archive.getinfo(f'{name}.npy')
    with archive.open(info) as member:
        read = _HEADERS.get(np.lib.format.read_magic(member))
        if read is None:
            raise ValueError(f'{name} is in a newer format')
        shape, _, dtype = read(member)
        if dtype.hasobject:
            raise ValueError(f'{name} holds objects')
        size = math.prod(shape) * dtype.itemsize
        if size != info.file_size - member.tell():
            raise ValueError(f'the header of {name} tells another size')
    return size + math.prod(shape) * _BYTES


def _check(arrays: Arrays, suffix: str, refuse) -> None:
    """Checks one pair of pixels and labels."""
    x, y = arrays[f'x{suffix}'], arrays[f'y{suffix}']
    name = f'an .npz file with x{suffix} and y{suffix}'
    if x.ndim not in (3, 4) or y.ndim != 1 or 0 in x.shape[1:]:
        raise refuse(
            f'{name} of shapes [N, H, W] or [N, H, W, C] and [N] (they are '
            f'{list(x.shape)} and {list(y.shape)})'
        )
    if len(x) != len(y):
        raise refuse(
            f'{name} of the same length (they are {len(x)} and {len(y)})'
        )
    if x.dtype != np.uint8 and not np.issubdtype(x.dtype, np.floating):
        raise refuse(f'{name}, pixels of uint8 or float (they are {x.dtype})')
    if not np.issubdtype(y.dtype, np.integer):
        raise refuse(f'{name}, labels of integers (they are {y.dtype})')
    if len(y) and not 0 <= np.min(y) <= np.max(y) < 2**31:
        raise refuse(
            f'{name}, labels of 0 and up (they are {np.min(y)} to {np.max(y)})'
        )
    like = arrays['x']
    if (x.shape[1:], x.dtype) != (like.shape[1:], like.dtype):
        raise refuse(
            f'{name}, pixels of the shape and type of x (they are '
            f'{x.dtype} {list(x.shape)} and {like.dtype} {list(like.shape)})'
        )
