"""Tests of `moe.checkpoints.vmoe`."""
