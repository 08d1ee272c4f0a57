import ml_dtypes
import numpy as np

from moe.checkpoints.hf.tensors import LINEAR, Published
from moe.checkpoints.hf.write import plan


def test_tensors_are_planned_in_the_dtype_that_is_asked_for():
    values = {'params/x': np.arange(12, dtype=np.float32).reshape(2, 2, 3)}
    one = Published('a', (3, 2), ('params/x',), (1,), ((2, 3),), LINEAR)
    asked = []

    def dtype_of(name, own):
        asked.append((name, own))
        return np.dtype(ml_dtypes.bfloat16)

    (planned,) = plan([one], values, dtype_of)
    assert asked == [('a', np.dtype(np.float32))]
    assert (planned.name, planned.shape, planned.size) == ('a', (3, 2), 12)
    assert planned.make().dtype == ml_dtypes.bfloat16
    assert planned.make().tolist() == [[6, 9], [7, 10], [8, 11]]
