"""Benchmarks and statistics of answers: RewardBench, AlpacaEval, best-of-n, length bias."""
