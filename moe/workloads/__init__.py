"""What the project trains: one folder a workload."""
