"""Every error that a caller of ours may want to tell apart.

    VhmError                the call cannot be done as asked         exit 2
    ├── InputError          an input is missing, unreadable, invalid exit 2
    │   ├── RecipeError     … the recipe
    │   ├── ImageError      … an image; `.reason` is a reject code
    │   ├── RecordError     … one record of a list; `.reason` is a reject code
    │   │   └── EncodeError … a record that cannot become a training sample
    │   └── CheckpointError … a model directory or a checkpoint
    ├── StorageError        S3 did not answer, or refused            exit 2
    ├── TrainError          training stopped                         exit 2
    ├── ServeError          the endpoint did not come up, or refused exit 2
    └── CheckFailed         a check or a gate said no                exit 1

The message says what, where and what to do, in one line: `vhm/cli.py` prints it as it is.
"""


class VhmError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 2


class InputError(VhmError):
    """An input is missing, unreadable or invalid."""


class RecipeError(InputError):
    """A recipe has an unknown key, a wrong value, or cannot be found."""


class RecordError(InputError):
    """One record of a list is unusable. `reason` is a code of `vhm.data.records.REASONS`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class EncodeError(RecordError):
    """A record cannot be turned into a training sample."""


class ImageError(InputError):
    """An image is missing, damaged or dangerous. `reason` is a code of `vhm.data.records.REASONS`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class CheckpointError(InputError):
    """A model directory or a training checkpoint is missing, damaged or of the wrong shape."""


class StorageError(VhmError):
    """S3 did not answer, or refused, or what came is damaged."""


class TrainError(VhmError):
    """Training stopped before its end."""


class ServeError(VhmError):
    """The endpoint did not come up or did not answer."""


class CheckFailed(VhmError):
    """A check ran and said no."""

    exit_code = 1


def first_line(error: BaseException) -> str:
    """What a library's error says, in one line; its kind where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
