"""The pictures of a comparison, each with a name."""

from missing_bits.pictures import comparison as pictures
from missing_bits.pictures.comparison import Drawing
from missing_bits.results import comparison
from missing_bits.results.comparison import Comparison, Effect, Task


def of_task(task: Task) -> Drawing | None:
    """The learning curves of a task's groups; None where no run has rows to draw."""
    found = (comparison.curve(group, task) for group in task.groups[: pictures.MOST])
    curves = [curve for curve in found if curve is not None]
    if not curves:
        return None
    of_all = f" (the best {pictures.MOST} of {len(task.groups)})"
    title = task.name + (of_all if len(task.groups) > pictures.MOST else "")
    return pictures.curves(curves, title, task.headline.name, task.unit)


def of_profiles(compared: Comparison) -> Drawing | None:
    """The performance profiles; None where there are none."""
    if not compared.profiles:
        return None
    found = {label: tuple(profile) for label, profile in compared.profiles.items()}
    return pictures.profiles(compared.thresholds, found)


def of_effect(effect: Effect) -> Drawing:
    """The headline against an option of a sweep."""
    title = f"{effect.sweep.name}: {effect.task}"
    return pictures.effect(effect.option, effect.points, effect.headline.name, title)


def every(compared: Comparison) -> list[Drawing]:
    """All pictures of a comparison."""
    drawings = [of_task(task) for task in compared.tasks]
    drawings += [of_profiles(compared), *map(of_effect, compared.effects)]
    return [drawing for drawing in drawings if drawing is not None]
