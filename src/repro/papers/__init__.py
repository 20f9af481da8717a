"""The chapters' studies: each reads top to bottom like its part of the paper."""
