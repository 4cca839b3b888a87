"""What the model Job has added, kept beside the models, so that it deletes nothing else."""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pull_models import FinalError, Found


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One model as it was when the Job had added it."""

    digest: str = ""
    modified: str = ""
    recipe: str = ""
    """Of a variant: what it was made of, as a digest."""
    pending: bool = False
    """It is being made: what is there under this name is the Job's, whole or not."""


class Ledger:
    """The models that were added, by comparable name, in a file that is never half written."""

    def __init__(self, folder: Path) -> None:
        """Read it; raises `FinalError` if it cannot be read."""
        self._file = folder / "models.json"
        try:
            text = self._file.read_text() if self._file.exists() else "{}"
            self._entries = {name: Entry(**entry) for name, entry in json.loads(text).items()}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise FinalError(f"{self._file}: no ledger of models ({error})") from error

    def __getitem__(self, name: str) -> Entry:
        return self._entries.get(name, Entry())

    def names(self) -> set[str]:
        """Every name that is in it."""
        return {*self._entries}

    def has(self, name: str, found: Found | None) -> bool:
        """Say whether what was found is what the Job had added, untouched since.

        A person who pulls or makes it again leaves another time behind.
        """
        entry = self[name]
        return bool(
            found and (entry.digest, entry.modified) == (found.digest, found.modified) != ("", "")
        )

    def begin(self, name: str) -> None:
        """Note that the model is about to be made; raises `FinalError` if that cannot be kept."""
        self._write({**self._entries, name: replace(self[name], pending=True)})

    def add(self, name: str, found: Found, recipe: str = "") -> None:
        """Note that the model was added; raises `FinalError` if that cannot be kept."""
        entry = Entry(digest=found.digest, modified=found.modified, recipe=recipe)
        self._write({**self._entries, name: entry})

    def forget(self, name: str) -> None:
        """Note that the model is none of the Job's; raises `FinalError` if that cannot be kept."""
        self._write({other: entry for other, entry in self._entries.items() if other != name})

    def _write(self, entries: dict[str, Entry]) -> None:
        partial = self._file.with_suffix(".partial")
        text = json.dumps({name: asdict(entry) for name, entry in entries.items()}, indent=1)
        try:
            with partial.open("w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._file)
            # The new name as well has to outlive a power cut.
            folder = os.open(self._file.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise FinalError(f"{self._file}: {error.strerror}") from error
        self._entries = entries
