"""The three errors a user can meet; each says what is wrong, where, and how to fix it."""


class ReproError(Exception):
    """Base of the three: `where: what` on the first line, the fix on the second."""

    def __init__(self, what: str, *, where: object = None, fix: str | None = None):
        self.what, self.where, self.fix = what, where, fix
        first = f"{where}: {what}" if where is not None else what
        super().__init__(first if fix is None else f"{first}\n  {fix}")


class SettingsError(ReproError):
    """A tier, chapter, parameter, seed or option is wrong."""


class DataError(ReproError):
    """Input data, a model folder or a tensor cannot be used as it is."""


class MissingInput(DataError):
    """Data or a model that a chapter needs is not on this machine; the chapter is skipped, not failed."""


class ArtifactError(ReproError):
    """A stored result is damaged, or cannot be written."""
