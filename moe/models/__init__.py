"""The transformer that workloads share."""
