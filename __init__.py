"""Missing Bits: reinforcement and self-supervised learning on JAX, one readable file per method."""
