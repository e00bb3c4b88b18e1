"""``zodb-vault repository``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from .context import Context, pass_context
from .group import Group
from .options import json_option, limit_options, site_options
from .output import count, print_checks, print_json, size

if TYPE_CHECKING:
    from ..operations.prune.unlock import MarkerState


@click.group("repository", cls=Group)
@site_options
def command() -> None:
    """Create, describe, check, unlock or copy a repository."""


@command.command("init")
@click.option(
    "--group-access",
    is_flag=True,
    help="Let the group of the directory read the backups: files 0640, directories 0750 with setgid.",
)
@site_options
@pass_context
def init(context: Context, group_access: bool) -> None:
    """Create a repository at an empty location.

    Root writes for the owner of the directory, so this user can go on after a command of root.
    """
    from ..repository.repository import Repository
    from ..stores.base import limitations_of

    recipients = context.settings.repository.recipients_at(context.location)
    made = Repository.create(context.store, recipients, group_access=group_access)
    context.say(f"repository {made.info.id} created in {made.store.location}")
    if made.info.recipients:
        context.say(f"content is encrypted for {count(len(made.info.recipients), 'recipient')}")
    for limit in limitations_of(made.store):
        context.say(f"note: {limit}")


@command.command("info")
@json_option
@site_options
@pass_context
def info(context: Context, as_json: bool) -> None:
    """Show the id, the location, the recipients and the sites of the repository."""
    from ..stores.base import limitations_of

    repository = context.repository
    document: dict[str, Any] = {
        "id": repository.info.id,
        "location": repository.store.location,
        "format": repository.info.format,
        "created": repository.info.created,
        "limits": limitations_of(repository.store),
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
    """Check whether a location can hold a repository, before or after `init`.

    The check writes, reads, lists, replaces and deletes a test file, and compares the clocks. Exit code 1: a
    check failed.
    """
    from ..operations.doctor.store_probe import probe_store

    return print_checks(probe_store(context.store), as_json=as_json, quiet=context.quiet)


@command.command("unlock")
@click.option(
    "--yes", is_flag=True, help="Do not ask for confirmation; the markers of runs that seem alive are kept."
)
@site_options
@pass_context
def unlock(context: Context, yes: bool) -> None:
    """Show which runs hold the repository, and remove the markers of dead ones.

    If the marker of a dead create is removed, the next create does not use what it has stored.
    """
    from ..operations.prune.unlock import marker_states, unlock

    repository = context.repository
    states = marker_states(repository)
    if not states:
        context.say("no run holds the repository")
    for state in states:
        marker = state.marker
        click.echo(
            f"{marker.what} {marker.run} of the site {state.site}: host {marker.host}, pid {marker.pid}, "
            f"since {marker.started}, last heartbeat {marker.heartbeat}: {_description(state)}",
            err=True,
        )
        remove = not state.alive if yes else context.confirm("Remove its marker?")
        if remove:
            unlock(repository, state)
            context.say(f"the marker of {marker.what} {marker.run} was removed")


def _description(state: MarkerState) -> str:
    if state.alive:
        return "seems alive"
    return "interrupted, the next run uses its work" if state.marker.ended else "dead"


@command.command("copy")
@click.argument("target")
@click.option(
    "--decrypt",
    is_flag=True,
    help="Store the copy without encryption: everyone who can read TARGET can read the backups.",
)
@limit_options
@json_option
@site_options
@pass_context
def copy(context: Context, target: str, decrypt: bool, as_json: bool) -> None:
    """Copy the backups of the site to another repository, unless it has them already.

    TARGET is the location of the other repository: a directory, or s3://bucket/prefix. A copy keeps the id of
    its backup. Every object is checked while it is copied. After an interruption, the same command continues.

    If TARGET has other recipients, the content is encrypted for them. This needs the private key of the
    source.
    """
    from ..operations.copy.options import CopyOptions
    from ..operations.copy.run import copy

    context.apply_priority()
    options = CopyOptions(decrypt=decrypt, workers=context.workers)
    with context.progress() as progress:
        done = copy(
            context.repository, context.repository_at(target), context.catalog.site, progress, options
        )
    if as_json:
        print_json(done)
        return
    context.say(
        f"{count(len(done.copied), 'backup')} copied to {done.location}, "
        f"{done.present:,} already there, {size(done.bytes)} stored"
    )


@command.group("recipients", cls=Group)
@site_options
def recipients() -> None:
    """Change the recipients, who can decrypt new content."""


@recipients.command("set")
@site_options
@pass_context
def set_(context: Context) -> None:
    """Encrypt new content for the recipients of the configuration.

    Content that is already stored is not changed: it stays encrypted for its old recipients, or not
    encrypted.
    """
    configured = context.settings.repository.recipients_at(context.location)
    if not configured:
        raise UsageError(
            "no recipients are configured",
            "add them to [repository.encryption]; to stop encrypting, create a new repository",
        )
    repository = context.repository
    before = len(repository.info.recipients)
    repository.set_recipients(configured)
    now = count(len(repository.info.recipients), "recipient")
    context.say(f"new content is encrypted for {now} (before: {before or 'none'})")
