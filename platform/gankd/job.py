"""What a process is asked to bring about: stages of a method, for a sweep or for nobody in particular."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Job:
    """All that a process needs to run stages of a method. Plain data, so that it travels.

    Attributes:
        method, config: the method's name and its resolved config as a tree.
        storage: root of the store and of the sweep's records (a folder or a bucket URI).
        stages: the stages to bring about, in the method's order; empty = all but those that read the test part.
        sweep, trial: whom the work is for ("" = nobody in particular; shared stages have a sweep and no trial).
        fingerprint: of the data, when the sender knows it; other data is refused.
        code: of the method's stages, when the sender knows it (`code_of_stages`); other code is refused.
        repetition: added to the seed of the stages that a repetition over seeds makes anew.
        threads: CPU threads to compute with (0 = leave torch's own choice).
        salt: goes into every key; a salted artifact is shared with nobody who has another salt.
        reuse_stale: take an artifact that other code has made where the present code has made none.
    """

    method: str
    config: dict[str, Any]
    storage: str
    stages: tuple[str, ...] = ()
    sweep: str = ""
    trial: str = ""
    fingerprint: str = ""
    code: str = ""
    repetition: int = 0
    threads: int = 0
    checkpoint_seconds: float = 30.0
    salt: str = ""
    reuse_stale: bool = False

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
