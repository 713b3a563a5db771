"""Checkpoints through orbax: atomic, verified by a digest, the last two and the best kept."""

import hashlib
import json
import logging
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

from missing_bits.errors import UserError


def digest(tree: Any) -> str:
    """SHA-256 over the structure, types and bytes of a tree of host arrays."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        leaf = np.ascontiguousarray(leaf)
        sha.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        sha.update(leaf.data if leaf.size else b"")
    return sha.hexdigest()


class Checkpoints:
    """The checkpoints of one run, by number of updates.

    Args:
      folder: where they lie; made when the first is saved.
    """

    def __init__(self, folder: Path) -> None:
        import orbax.checkpoint as ocp  # here, because it takes a while and `--help` does not need it
        from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

        logging.getLogger("absl").setLevel(
            logging.CRITICAL
        )  # orbax's remarks; what matters it raises
        self._ocp, self._folder = ocp, folder.absolute()
        _ignore_abandoned_work()
        _sweep(self._folder)
        best = BestN(
            get_metric_fn=lambda metrics: metrics["headline"],
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy([LatestN(2), best]),
            best_fn=lambda metrics: metrics["headline"],
            enable_async_checkpointing=False,
        )
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def save(self, update: int, arrays: Any, facts: dict[str, Any], headline: float | None) -> str:
        """Saves a tree of host arrays and a JSON object; a crash at any moment leaves the older ones whole.

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
                update,
                args=save.Composite(arrays=save.StandardSave(leaves), facts=save.JsonSave(facts)),
                metrics=None if headline is None else {"headline": headline},
            )
        except (OSError, ValueError, RuntimeError) as error:
            if not isinstance(error, OSError) and "os_error_code" not in str(
                error
            ):  # as TensorStore tells of one
                raise
            raise UserError(
                f"The checkpoint at update {update} could not be written to {self._folder}: {_first_line(error)}. "
                "Free some space; earlier checkpoints are whole, and --run.resume continues from the last of them."
            ) from error
        return facts["digest"]

    def latest(self) -> tuple[int, list[np.ndarray], dict[str, Any]] | None:
        """The newest whole checkpoint as (update, leaves, facts); None where there is none.

        Damaged ones are set aside, with a warning each.
        """
        restore = self._ocp.args
        for update in sorted(self._manager.all_steps(), reverse=True):
            try:
                saved = self._manager.restore(
                    update,
                    args=restore.Composite(
                        arrays=restore.StandardRestore(), facts=restore.JsonRestore()
                    ),
                )
                leaves, facts = [np.asarray(leaf) for leaf in saved.arrays], dict(saved.facts)
                if digest(leaves) != facts["digest"]:
                    raise ValueError("its contents do not match its digest")
                return update, leaves, facts
            except (
                Exception
            ) as error:  # damaged files fail in many ways, none of which may stop the run
                aside = self._folder.with_name("checkpoints-damaged") / str(update)
                warnings.warn(
                    f"The checkpoint at update {update} is damaged ({_first_line(error)}); it was moved to {aside} "
                    "and the one before it is used.",
                    stacklevel=2,
                )
                aside.parent.mkdir(exist_ok=True)
                shutil.rmtree(aside, ignore_errors=True)
                shutil.move(self._folder / str(update), aside)
                self._manager.reload()
        return None

    def close(self) -> None:
        """Ends orbax's threads."""
        self._manager.close()


def _sweep(folder: Path) -> None:
    """Deletes what a crash may have left: saves cut short, and metrics that cannot be read.

    Orbax would sweep up the former in a thread, beside everything else, and over the latter refuse the whole folder,
    though the checkpoint itself is whole.
    """
    for torn in folder.glob("*.orbax-checkpoint-tmp*"):
        shutil.rmtree(torn)
    for file in folder.glob("*/metrics/metrics"):
        try:
            json.loads(file.read_bytes())["headline"]
        except (ValueError, KeyError, TypeError):
            file.unlink()


_tell = sys.__unraisablehook__


def _tell_unless_abandoned(unraisable: Any) -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
        _tell(unraisable)


def _ignore_abandoned_work() -> None:
    """Keeps tensorstore quiet about reads and writes it gives up when one beside them has failed.

    Their answers find orbax's event loop closed, each with a traceback from a thread.
    """
    global _tell
    if sys.unraisablehook is not _tell_unless_abandoned:
        _tell, sys.unraisablehook = sys.unraisablehook, _tell_unless_abandoned


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
