"""Missing Bits: reinforcement learning and self-supervised learning on JAX, one readable file per method."""
