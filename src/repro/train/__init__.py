"""Training steps: what turns preferences into models."""
