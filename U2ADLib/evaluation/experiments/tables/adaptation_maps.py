"""Maps and reconstructions of some images, and how they change while models adapt (paper, Fig. 5 and 8)."""

from ..pictures import followed_maps, reconstructions
from ..training import Comparison
from .context import Context, jobs_of
from .curves import points
from .result import Picture, Result
from .scoring import Job

TITLE = "Maps during the adaptation (Fig. 5 and 8)"


def jobs(comparison: Comparison) -> list[Job]:
    """Every method that is shown, at every share of the adaptation."""
    option = comparison.config.option("adaptation_maps")
    jobs = [
        job for name in comparison.config.known(option.compared) for job in jobs_of(comparison, comparison.entry(name))
    ]
    followed = tuple(dict.fromkeys((*option.followed, *option.guided)))
    return jobs + [
        job for *_, entry in points(comparison, followed, option.shares) for job in jobs_of(comparison, entry)
    ]


def run(context: Context) -> Result:
    """Pictures only: of phantoms, unless the configuration allows people."""
    option, figures = context.config.option("adaptation_maps"), []
    cases = context.shown_cases(option.cases)
    if not cases:
        return Result(
            notes=["Fig. 5 and 8 are left out: no phantom with a lesion is tested, and people are not shown."]
        )
    for number, case in enumerate(cases, 1):
        real = case.group != "phantom"
        made = {context.title(entry): context.maps(entry, case) for entry in context.entries(option.compared)}
        if any(maps is not None for maps in made.values()):
            file = f"maps-{number}"
            reconstructions(context.picture_path(file), case, made)
            caption = (
                "Above: image and reconstructions; below: truth and anomaly maps. Each map has colours of its own."
            )
            figures.append(
                Picture(f"{file}.png", f"Reconstructions and maps, example {number} (Fig. 5)", caption, real)
            )
        for methods, both, figure in ((option.followed, False, 5), (option.guided, True, 8)):
            steps = {}
            for name, share, entry in points(context.comparison, methods, option.shares):
                if context.is_there(entry) and (maps := context.maps(entry, case)) is not None:
                    title = context.title(context.comparison.entry(name))
                    steps.setdefault(title, {})[share] = maps
            if steps:
                file = f"adaptation-{figure}-{number}"
                followed_maps(context.picture_path(file), case, steps, both)
                caption = "Columns: share of the adaptation's budget. Above each map its mean in the cord × 1000."
                what = "error and variance maps" if both else "anomaly maps"
                title = f"During the adaptation, example {number}: {what} (Fig. {figure})"
                figures.append(Picture(f"{file}.png", title, caption, real))
    return Result([], figures)
