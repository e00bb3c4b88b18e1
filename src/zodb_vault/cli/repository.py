"""``zodb-vault repository``."""

from __future__ import annotations

from typing import Any

import click

from ..errors import UsageError
from .context import Context, json_option, limit_options, pass_context, site_options
from .group import Group
from .output import count, print_checks, print_json, size


@click.group("repository", cls=Group)
@site_options
def command() -> None:
    """Make a repository, or tell about it."""


@command.command("init")
@site_options
@pass_context
def init(context: Context) -> None:
    """Make a new repository in an empty place."""
    from ..repository.repository import Repository
    from ..stores.base import limits

    made = Repository.create(context.store, context.settings.repository.recipients_at(context.location))
    context.say(f"repository {made.info.id} made in {made.store.location}")
    if made.info.recipients:
        context.say(f"content is encrypted for {count(len(made.info.recipients), 'recipient')}")
    for limit in limits(made.store):
        context.say(f"note: {limit}")


@command.command("info")
@json_option
@site_options
@pass_context
def info(context: Context, as_json: bool) -> None:
    """Tell which repository it is and which sites it has."""
    from ..stores.base import limits

    repository = context.repository
    document: dict[str, Any] = {
        "id": repository.info.id,
        "location": repository.store.location,
        "format": repository.info.format,
        "created": repository.info.created,
        "limits": limits(repository.store),
        "recipients": repository.info.recipients,
        "sites": [
            {"name": name, "backups": len(repository.listing(name).backups)} for name in repository.sites()
        ],
    }
    if as_json:
        print_json(document)
        return
    for key in ("id", "location", "format", "created"):
        click.echo(f"{key:>10}  {document[key]}")
    for recipient in document["recipients"]:
        click.echo(f"{'recipient':>10}  {recipient}")
    for limit in document["limits"]:
        click.echo(f"{'note':>10}  {limit}")
    for site in document["sites"]:
        click.echo(f"{'site':>10}  {site['name']}: {count(site['backups'], 'backup')}")


@command.command("check")
@json_option
@site_options
@pass_context
def check(context: Context, as_json: bool) -> int:
    """Try everything on a place that a repository needs there, before or after `init`: writing, exchanging, reading, listing, deleting, clocks.

    Nothing is left behind. Exit status 1: something does not work.
    """
    from ..operations.doctor.store_probe import probe_store

    return print_checks(probe_store(context.store), as_json=as_json, quiet=context.quiet)


@command.command("unlock")
@click.option("--yes", is_flag=True, help="Do not ask; runs that seem alive stay.")
@site_options
@pass_context
def unlock(context: Context, yes: bool) -> None:
    """Show which runs hold the repository, and take away what dead ones have left.

    What a dead create has stored is then not used by the next one any more.
    """
    from ..operations.prune.unlock import marker_states, unlock

    repository = context.repository
    found = marker_states(repository)
    if not found:
        context.say("no run holds the repository")
    for one in found:
        marker = one.marker
        state = (
            "seems alive"
            if one.alive
            else "ended, its work is kept for the next run"
            if marker.ended
            else "dead"
        )
        who = f"host {marker.host}, pid {marker.pid}, since {marker.started}, last heard of at {marker.heartbeat}"
        click.echo(f"{marker.what} {marker.run} of the site {one.site}: {who}: {state}", err=True)
        if (yes and not one.alive) or (not yes and context.confirm("Take its marker away?")):
            unlock(repository, one)
            context.say(f"the marker of {marker.what} {marker.run} is gone")


@command.command("copy")
@click.argument("target")
@click.option(
    "--decrypt", is_flag=True, help="TARGET is not encrypted: whoever can read it can read the backups."
)
@limit_options
@json_option
@site_options
@pass_context
def copy(context: Context, target: str, decrypt: bool, as_json: bool) -> None:
    """Copy the backups of the site that another repository does not have to it (TARGET: where it is, as for `--repository`).

    They keep their ids. Every object is checked while it is copied. Run again after an interruption, it goes on.

    A target for other recipients gets content that is encrypted for them; that needs the private key of what is encrypted already.
    """
    from ..operations.copy.run import CopyOptions, copy

    context.give_way()
    options = CopyOptions(decrypt=decrypt, workers=context.workers)
    with context.progress() as progress:
        done = copy(context.repository, context.repository_at(target), context.site_name, progress, options)
    if as_json:
        print_json(done)
    else:
        context.say(
            f"{count(len(done.copied), 'backup')} copied to {done.location}, {done.present:,} there already, {size(done.bytes)} stored"
        )


@command.group("recipients", cls=Group)
@site_options
def recipients() -> None:
    """Decide who can read what is stored from now on."""


@recipients.command("set")
@site_options
@pass_context
def set_(context: Context) -> None:
    """Encrypt new content for the recipients of the configuration.

    What is stored already stays as it is: encrypted for those who could read it before, or not at all.
    """
    configured = context.settings.repository.recipients_at(context.location)
    if not configured:
        raise UsageError(
            "the configuration names no recipients",
            "name them in [repository.encryption]; to stop encrypting, make a new repository",
        )
    repository = context.repository
    before = len(repository.info.recipients)
    repository.set_recipients(configured)
    context.say(
        f"new content is encrypted for {count(len(repository.info.recipients), 'recipient')} (before: {before or 'none'})"
    )
