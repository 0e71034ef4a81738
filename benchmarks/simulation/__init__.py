"""What `benchmarks/simulate` is made of."""
