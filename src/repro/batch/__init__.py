"""One chapter at a time, out of sight: what it depends on, its kernel, its page."""
