"""Mixture-of-experts research in JAX; see docs/architecture.md."""
