"""The miniature world: its language, tasks, gold reward, annotators, data sets and benchmarks. No torch."""
