"""repro: three papers on reward modelling and RLHF, reproduced from the preference data to every table and figure."""

__version__ = "0.1.0"
