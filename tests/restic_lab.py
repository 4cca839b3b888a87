"""A restic repository that opens at once."""

import base64
import hashlib
from pathlib import Path

PASSWORD = "secret"
# Written by `restic init` 0.19; then the key was encrypted anew with scrypt's N=2, r=8, p=1.
CONFIG = """
M/RS+S0+2Sgl4TuIyqf8uowW/XtxrSjBpBvmbhbS9eTiN9L4vJIDtBE0zxW4gkyyjkFMQh+ZaSRgQ5z33Zre8jTyo83BySVD
fFFR9hMYAxmHwGi5C8kj8eoaLy+5kqYyHIp918vbRg73ZHFPPcyuHhJvCItcwV4ELX4B3OfMp4NH4x4aqufWfwN8+OfmCjKV
mkgg9pTQ5X5cixU=
"""
SALT = "IHCevyNABI/2DCOo+x/zpdZpyVa4cGwDbTEY0wwn5mZirI27dIK4d7yvELNv606gQ7mitkzfplraiwwwHm7zVA=="
DATA = (
    "cMG+kUOQu0e1pl/WUlPneqTg+JNdOnp94GgLMRxYTabgE2EpFa7EgdKyK9DbeNhmdu0MJApUL20UCSTF1ltfJEnybVLH8o"
    "beW/0z96ZxjC/7gB3dGbIVBFkR7asbyrbs/m4oZTIePDIpG8a4DdU7YH0WDOOvStpwcCVQQpFIX9GvPzjW1UGWyJKFP2zn"
    "hLC791PLgDpcFGz3Th5f6chK7w=="
)
KEY = f'{{"kdf":"scrypt","N":2,"r":8,"p":1,"salt":"{SALT}","data":"{DATA}"}}'


def create(repository: Path) -> Path:
    """Create an empty repository as `restic init` does, and return its key's file.

    Of such a key, restic derives the key of the repository at once; of its own, it takes half a
    second at each command.
    """
    for name in ("data", "index", "keys", "locks", "snapshots"):
        (repository / name).mkdir(parents=True)
    (repository / "config").write_bytes(base64.b64decode(CONFIG))
    key = repository / "keys" / hashlib.sha256(KEY.encode()).hexdigest()
    key.write_text(KEY)
    return key
