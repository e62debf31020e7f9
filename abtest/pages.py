"""Pages of experiments in the database: the watcher writes them, and the ranking service shows them.

A page costs the service one row, so that it computes no report beside its requests.

Source: docs/experiments.md, Report.
"""

from sqlalchemy import Engine, select

from abtest import templating
from abtest.tables import experiment_pages, experiments
from stream import db


def write(engine: Engine, experiment: str, *, as_of: int, verdict: str, html: str) -> None:
    """Write the page of an experiment over the last one, unless one of later data is there.

    Args:
        engine: A database with the newest schema.
        experiment: Key of the experiment.
        as_of: Watermark of the data, epoch ms.
        verdict: Verdict in words, for the list.
        html: The page.

    Raises:
        StoreError: If the database is unreachable or refused.
    """
    row = {"experiment": experiment, "as_of": as_of, "verdict": verdict, "html": html}
    with db.transaction(engine) as connection:
        upsert = db.insert(connection, experiment_pages).values(row)
        new = upsert.excluded
        connection.execute(
            upsert.on_conflict_do_update(
                index_elements=[experiment_pages.c.experiment],
                set_={name: new[name] for name in ("as_of", "verdict", "html")},
                where=new.as_of >= experiment_pages.c.as_of,
            )
        )


def page(engine: Engine, experiment: str) -> str | None:
    """Return the last page of an experiment, None if there is none.

    Raises:
        StoreError: If the database is unreachable or refused.
    """
    with db.read(engine) as connection:
        return connection.execute(
            select(experiment_pages.c.html).where(experiment_pages.c.experiment == experiment)
        ).scalar_one_or_none()


def list_page(engine: Engine) -> str:
    """Return the page that lists all experiments, the newest first, with links to their pages.

    Raises:
        StoreError: If the database is unreachable or refused.
    """
    with db.read(engine) as connection:
        rows = connection.execute(
            select(experiments.c.key, experiments.c.status, experiment_pages.c.verdict)
            .outerjoin(experiment_pages, experiment_pages.c.experiment == experiments.c.key)
            .order_by(experiments.c.created_ts.desc(), experiments.c.key)
        ).all()
    return templating.environment().get_template("experiments.html.jinja").render(experiments=rows)
