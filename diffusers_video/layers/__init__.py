"""Building blocks shared by the networks: axis changes, temporal layers, mixing and positions."""
