"""Videos for training: where clips come from and how they are read."""
