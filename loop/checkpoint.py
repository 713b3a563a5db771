"""Checkpoints through orbax: atomic, verified by a digest, the last two and the best kept."""

import errno
import hashlib
import json
import logging
import re
import shutil
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from missing_bits.errors import UserError, remedy, require


def digest(tree: Any) -> str:
    """SHA-256 over the structure, types and bytes of a tree of host arrays."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        leaf = np.ascontiguousarray(leaf)
        sha.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        sha.update(leaf.data if leaf.size else b"")
    return sha.hexdigest()


class Saved(NamedTuple):
    """A checkpoint that was read."""

    step: int
    leaves: list[np.ndarray]
    facts: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run, by the step in units of its budget.

    Args:
      folder: where they lie; made when the first is saved.
      larger_is_better: whether the best one has the largest headline, or the smallest.
    """

    def __init__(self, folder: Path, larger_is_better: bool = True) -> None:
        import orbax.checkpoint as ocp  # here, because it takes a while and `--help` needs none
        from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

        self._ocp = ocp
        self._folder = folder.absolute()
        self._quiet = _Quiet()
        _sweep(self._folder)
        sign = 1 if larger_is_better else -1

        def goodness(metrics: dict[str, float]) -> float:
            return sign * metrics["headline"]

        best = BestN(get_metric_fn=goodness, n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy([LatestN(2), best]),
            best_fn=goodness,
            enable_async_checkpointing=False,
        )
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def save(self, step: int, arrays: Any, facts: dict[str, Any], headline: float | None) -> str:
        """Saves a tree of host arrays and a JSON object.

        A crash at any moment leaves the older ones whole.

        Returns:
          The digest of the arrays, which is saved with the facts.

        Raises:
          UserError: the disk refused; the older checkpoints are untouched.
        """
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(arrays)]
        facts = {**facts, "digest": digest(leaves)}
        save = self._ocp.args
        try:
            self._manager.save(
                step,
                args=save.Composite(arrays=save.StandardSave(leaves), facts=save.JsonSave(facts)),
                metrics=None if headline is None else {"headline": headline},
            )
        except (OSError, ValueError, RuntimeError) as error:
            if not isinstance(error, OSError) and "os_error_code" not in str(error):
                raise  # TensorStore tells of the disk with such a code; all else is a fault of ours
            raise UserError(
                f"The checkpoint at step {step:,} could not be written to {self._folder}: "
                f"{_reason(error)}. {remedy(_of_system(error))} Earlier checkpoints are whole."
            ) from error
        return facts["digest"]

    def load(self, which: str) -> Saved | None:
        """The newest whole checkpoint, or the one with the best headline; None without any.

        Newer ones that are damaged are set aside with a warning each, and so are those after the
        best, once a whole one was found: where none can be read, nothing is changed.

        Raises:
          UserError: the best is asked for, and none was saved at an evaluation; the system refuses
          to read, which may not be the checkpoint's fault; or none is whole.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        skipped: list[int] = []
        if which == "best":
            best = self._manager.best_step()
            require(
                best is not None,
                f"--run.from=best: no checkpoint in {self._folder} was saved at an evaluation. "
                "Leave it out to resume from the last.",
            )
            skipped = [step for step in steps if step > best]
            steps = [best]
        damaged: dict[int, Exception] = {}
        for step in steps:
            try:
                found = self._read(step)
                break
            except Exception as error:  # damaged files fail in many ways
                if _not_its_fault(error):
                    raise UserError(
                        f"The checkpoint at step {step:,} in {self._folder} cannot be read: "
                        f"{_reason(error)}. {remedy(_of_system(error))} Nothing was changed. "
                        "If only this one cannot be read, move its folder away."
                    ) from error
                damaged[step] = error
        else:
            if not damaged:
                return None
            raise UserError(
                f"None of the {len(damaged)} checkpoints in {self._folder} can be read: "
                f"{_reason(damaged[steps[0]])}. Nothing was changed; bring one of them back, or "
                "begin a new run in another folder."
            )
        for step in skipped:
            self._set_aside(step, "checkpoints-after-best")
        for step, error in damaged.items():
            aside = self._set_aside(step, "checkpoints-damaged")
            warnings.warn(
                f"The checkpoint at step {step:,} is damaged ({_reason(error)}); it was moved to "
                f"{aside} and the one before it is used.",
                stacklevel=2,
            )
        return found

    def _read(self, step: int) -> Saved:
        restore = self._ocp.args
        saved = self._manager.restore(
            step,
            args=restore.Composite(arrays=restore.StandardRestore(), facts=restore.JsonRestore()),
        )
        leaves = [np.asarray(leaf) for leaf in saved.arrays]
        facts = dict(saved.facts)
        if digest(leaves) != facts["digest"]:
            raise ValueError("its contents do not match its digest")
        return Saved(step, leaves, facts)

    def _set_aside(self, step: int, where: str) -> Path:
        aside = self._folder.with_name(where) / str(step)
        aside.parent.mkdir(exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        shutil.move(self._folder / str(step), aside)
        self._manager.reload()
        return aside

    def close(self) -> None:
        """Ends orbax's threads."""
        self._manager.close()
        self._quiet.close()


def _sweep(folder: Path) -> None:
    """Deletes what a crash may have left: saves cut short, and metrics that cannot be read.

    Orbax would sweep up the former in a thread, beside everything else, and over the latter refuse
    the whole folder, though the checkpoint itself is whole.
    """
    for torn in folder.glob("*.orbax-checkpoint-tmp*"):
        shutil.rmtree(torn)
    for file in folder.glob("*/metrics/metrics"):
        try:
            json.loads(file.read_bytes())["headline"]
        except (ValueError, KeyError, TypeError):
            file.unlink()


class _Quiet:
    """Keeps what orbax and tensorstore remark from the user until `close`; what matters they raise.

    Tensorstore gives up reads and writes when one beside them has failed; their answers find
    orbax's event loop closed, each with a traceback from a thread.
    """

    def __init__(self) -> None:
        self._logger = logging.getLogger("absl")
        self._level = self._logger.level
        self._logger.setLevel(logging.CRITICAL)
        self._hook = sys.unraisablehook
        sys.unraisablehook = self._tell

    def _tell(self, unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            self._hook(unraisable)

    def close(self) -> None:
        self._logger.setLevel(self._level)
        if sys.unraisablehook == self._tell:
            sys.unraisablehook = self._hook


_OF_A_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL)
"""What the system answers where a file of a checkpoint is missing, or is something else."""


def _of_system(error: Exception) -> OSError:
    """What the system answered; TensorStore tells it within its message."""
    if isinstance(error, MemoryError):
        return OSError(errno.ENOMEM, "not enough memory")
    if isinstance(error, OSError):
        return error
    told = re.search(r"os_error_code='(\d+)'", str(error))
    return OSError(int(told[1]) if told else 0, str(error))


def _not_its_fault(error: Exception) -> bool:
    """Whether the system refused for a reason that does not lie in the checkpoint's own files."""
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return True
    answer = _of_system(error).errno
    return bool(answer) and answer not in _OF_A_FILE


def _reason(error: Exception) -> str:
    """The first line of what an error says, without TensorStore's specification in JSON."""
    said = (error.strerror if isinstance(error, OSError) else None) or str(error)
    first = (said or type(error).__name__).splitlines()[0]
    return textwrap.shorten(re.split(r" \[(?=[a-z_ ]+=)|: \{", first)[0], 200)
