"""`shelfwise trainer annotate`: candidate pages out, judgements in, and what these cost."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from deploy.commands.output import JsonFlag, console, context, err_console, fail, print_json, print_table
from deploy.commands.stream import MAX_SHOWN_FAULTS, require_topics
from deploy.commands.times import TIME_HELP, parse_time

app = typer.Typer(no_args_is_help=True)


@app.command()
def export(
    ctx: typer.Context,
    out: Annotated[Path, typer.Argument(help="New file, .csv or .jsonl.")],
    p: Annotated[
        float | None,
        typer.Option("--p", help="Share of the items of each type on a page; .3 by default; .1, .2 and 1 are usual."),
    ] = None,
    anchors: Annotated[
        bool, typer.Option("--anchors", help="Instead of a share: the next items of a binary search in each type.")
    ] = False,
    budget: Annotated[
        str | None,
        typer.Option(help="Name of the labelling budget; by default p30 for --p .3 and so on, anchors for --anchors."),
    ] = None,
    pages: Annotated[int, typer.Option(min=1, help="Most pages.")] = 100,
    topic: Annotated[Literal["sessions", "impressions"], typer.Option(help="Source of the lists.")] = "sessions",
    lineage: Annotated[str | None, typer.Option(help="Only lists that this lineage ranked.")] = None,
    queries: Annotated[
        Path | None, typer.Option(help="File with a query text a line: only these queries, with their texts.")
    ] = None,
    from_: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help=f"Only lists shown at or after: {TIME_HELP}")
    ] = None,
    to: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Only lists shown before.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write pages for annotators: of each list the items of each type with the highest logged scores, or anchors."""
    from collections import Counter

    from deploy.kafka.choice import configured
    from stream.broker.reader import read_to_end
    from stream.errors import ConfigError
    from stream.query_hash_key import PrivacySettings, query_hash_key
    from stream.replicas.annotations import Annotations
    from stream.replicas.catalogue import titles
    from stream.schemas import topics
    from stream.schemas.identity import query_hash
    from stream.schemas.names import check_name
    from trainer.annotation import files
    from trainer.annotation.anchors import asked_places, by_query, open_lists
    from trainer.annotation.pages import Wanted, page_of, rows_of, sample, wanted_lists
    from trainer.annotation.scored_lists import of_impressions, of_sessions

    if anchors and p is not None:
        raise ConfigError(f"--p {p}: expected none with --anchors, which asks for single items")
    p = 0.3 if p is None else p
    if not 0 < p <= 1:
        raise ConfigError(f"--p {p}: expected more than 0 and at most 1")
    if budget is None:
        budget = "anchors" if anchors else f"p{100 * p:g}"
    check_name("--budget", budget)
    files.check_new(out)
    called = context(ctx)
    texts = {}
    if queries is not None:
        key = query_hash_key(called.settings.get("privacy", PrivacySettings), called.home)
        texts = {query_hash(text, key): text for text in files.read_queries(queries)}
    broker = configured(called)
    require_topics(called, broker, [topic, topics.ITEMS, topics.ANNOTATIONS])
    left_out: Counter[str] = Counter()
    grades = by_query(Annotations.load(broker).counting(), budget)
    wanted = Wanted(
        lineage=lineage,
        from_ts=parse_time(from_, "--from") or 0,
        to_ts=parse_time(to, "--to"),
        query_hashes=None if queries is None else texts.keys(),
        judged=() if anchors else grades.keys(),
    )
    of_topic = of_sessions if topic == topics.SESSIONS else of_impressions
    found = wanted_lists(of_topic(read_to_end(broker, topic), left_out), wanted, left_out)
    lists = sample(open_lists(found, grades, left_out) if anchors else found, pages)
    shown = titles(read_to_end(broker, topics.ITEMS), {item_id for each in lists for item_id in each.item_id})
    rows = []
    for each in lists:
        text = texts.get(each.query_hash, "")
        if anchors:
            rows += page_of(each, asked_places(each, grades), budget, text, shown)
        else:
            rows += rows_of(each, p, budget, text, shown)
    if rows:
        files.write_pages(out, rows)
    if as_json:
        print_json({"budget": budget, "pages": len(lists), "items": len(rows), "left_out": left_out, "out": str(out)})
    else:
        for reason, number in left_out.most_common():
            err_console.print(f"{number} records left out: {reason}", highlight=False)
    if not rows:
        raise fail(f"no list found in {topic}; nothing was written")
    if not as_json:
        items = sum(row.num_items for row in {row.page: row for row in rows}.values())
        said = f"{len(lists)} pages with {len(rows)} of {items} items written to {out}, budget {budget}"
        console.print(said, highlight=False, soft_wrap=True)


@app.command("import")
def import_(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="File of judgements, .csv or .jsonl.")],
    annotator: Annotated[str | None, typer.Option(help="Pseudonym for lines that name none.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Send the judgements of a file that the topic has not yet; if a line is wrong, none is sent."""
    from deploy.kafka.choice import configured
    from stream.schemas import topics
    from stream.wall_clock import epoch_ms
    from trainer.annotation.comparison import compare
    from trainer.annotation.delivery import deliver, unknown
    from trainer.annotation.files import read_judgements
    from trainer.feed.past_records import KafkaPastRecords

    judged = read_judgements(file, annotator, epoch_ms())
    document: dict[str, object] = {"sent": 0, "known": 0, "without_grade": judged.num_open, "refused": []}
    if judged.faults:
        hint = "--annotator names the annotator of lines that name none"
        is_unnamed = annotator is None and any(fault.startswith("annotator: empty") for _, fault in judged.faults)
        raise _refused(file, judged.faults, document, as_json=as_json, hint=hint if is_unnamed else None)
    if not judged.annotations:
        raise fail(f"no judgements in {file}: {judged.num_open} lines without a grade")
    called = context(ctx)
    broker = configured(called)
    require_topics(called, broker, [topics.ANNOTATIONS, topics.SESSIONS])
    new = unknown(broker, judged.annotations.values())
    compared = compare(new, KafkaPastRecords(broker), judged.records)
    if compared.faults:
        faults = [(judged.line[event_id], fault) for event_id, fault in compared.faults.items()]
        raise _refused(file, faults, document, as_json=as_json)
    deliver(broker, new)
    num_known = len(judged.annotations) - len(new)
    if as_json:
        numbers = {"unplaced": len(compared.unplaced), "lost": len(compared.lost)}
        print_json(document | {"sent": len(new), "known": num_known} | numbers)
        return
    said = f"{len(new)} judgements sent, {num_known} known already, {judged.num_open} lines without a grade"
    console.print(said, highlight=False)
    for found, why in (
        (compared.unplaced, "they name no record of sessions"),
        (compared.lost, "the topic sessions does not hold their lists any more"),
    ):
        if found:
            said = f"{len(found)} of them cannot be learned: {why} (line {judged.line[found[0]]} first)"
            err_console.print(said, highlight=False, soft_wrap=True)


def _refused(
    file: Path,
    faults: Sequence[tuple[int, str]],
    document: dict[str, object],
    *,
    as_json: bool,
    hint: str | None = None,
) -> typer.Exit:
    """Print what is wrong with lines of a file, and return the end of the command."""
    for number, fault in faults[:MAX_SHOWN_FAULTS]:
        err_console.print(f"line {number}: {fault}", highlight=False, soft_wrap=True)
    if as_json:
        print_json(document | {"refused": [{"line": number, "fault": fault} for number, fault in faults]})
    if hint is not None:
        err_console.print(hint)
    return fail(f"{len(faults)} lines of {file} are no judgements; nothing was sent")


@app.command()
def ledger(ctx: typer.Context, as_json: JsonFlag = False) -> None:
    """Print judgements and seconds used against full annotation, for each labelling budget."""
    from deploy.kafka.choice import configured
    from stream.replicas.annotations import Annotations
    from stream.schemas import topics
    from trainer.annotation.costs import costs

    called = context(ctx)
    broker = configured(called)
    require_topics(called, broker, [topics.ANNOTATIONS])
    found = costs(Annotations.load(broker))
    if as_json:
        print_json(found)
        return
    columns = (
        *("budget", "queries", "annotators", "judgements", "in full", "share", "corrected"),
        *("seconds", "seconds in full"),
    )
    rows = [
        (
            each.budget,
            each.queries,
            each.annotators,
            each.judgements,
            each.full_judgements,
            f"{each.share:.1%}",
            each.corrections,
            f"{each.seconds:.0f}" + (f", {each.untimed} not timed" if each.untimed else ""),
            None if each.full_seconds is None else f"{each.full_seconds:.0f} (estimated)",
        )
        for each in found
    ]
    print_table("annotations", columns, rows)
