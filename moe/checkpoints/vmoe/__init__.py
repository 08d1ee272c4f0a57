"""Published checkpoints of V-MoE: an index, and arrays in shards."""
