"""Records in; axes, Markdown and verdicts out."""

from repro.report.chapter import Chapter

__all__ = ["Chapter"]
