"""The exceptions that this package raises on purpose.

    VhmError                base of all of them                      exit 2
    ├── InputError          an input is missing, unreadable, invalid exit 2
    │   ├── RecipeError     the recipe
    │   ├── ImageError      an image; `.reason` is a reject code
    │   │   └── BandError   an image without a requested band
    │   ├── RecordError     one record of a list; `.reason` is a reject code
    │   │   └── EncodeError a record that cannot become a training sample
    │   └── CheckpointError a model directory or a checkpoint
    ├── StorageError        S3 or a disk does not answer, or refuses exit 2
    │   └── DamagedObjectError  what S3 stores is not what was published
    ├── TrainError          training stopped before its end          exit 2
    ├── ServeError          the endpoint did not start, or refused   exit 2
    ├── Interrupted         the user pressed Ctrl-C                  exit 130
    └── CheckFailed         a check or a gate failed                 exit 1

A message is one line: what is wrong, where, and what to do. `vhm/cli.py` prints it unchanged.
"""


class VhmError(Exception):
    """Base class of all errors raised on purpose."""

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


class BandError(ImageError):
    """A requested band is absent from an image that has `bands` of them."""

    def __init__(self, bands: int, detail: str) -> None:
        super().__init__("image_mode", detail)
        self.bands = bands


class CheckpointError(InputError):
    """A model directory or a training checkpoint is missing, damaged or of the wrong shape."""


class StorageError(VhmError):
    """S3 or a disk does not answer, refuses the request, is full, or returns damaged data."""


class DamagedObjectError(StorageError):
    """The content that S3 stores is not the published one; a retry returns the same."""


class TrainError(VhmError):
    """Training stopped before its end."""


class ServeError(VhmError):
    """The endpoint did not start, did not answer, or refused the request."""


class Interrupted(VhmError):
    """The user ended a command that can be resumed; the message says how."""

    exit_code = 130


class CheckFailed(VhmError):
    """A check or a gate ran and failed."""

    exit_code = 1


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its class if the message is empty."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
