"""Judges: who says which of two answers is better. The gold reward, a reward model, a language model, people."""
