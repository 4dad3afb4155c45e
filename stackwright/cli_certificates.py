"""Commands for certificates, tokens and encryption keys: `stackwright certificates|token|encryption ...`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

Run = Callable[[str, dict[str, Any], bool], object]
Site = Annotated[str, typer.Argument(help="Name of the site: its file in deployments/sites, without .yaml.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Hash = Annotated[
    str | None,
    typer.Option("--plan", help="Hash of the plan that was read and approved. Without it the run waits for the form."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and its hash, change nothing.")]
Within = Annotated[int, typer.Option(min=1, max=300, help="Rotate what has fewer days to live than this.")]
Age = Annotated[int, typer.Option(min=0, help="Leave alone what was made less than so many days ago.")]


def add_commands(app: typer.Typer, run: Run) -> None:
    """Add the command groups; `run(deployment, parameters, as_json)` starts a run of the catalogue."""
    certificates = typer.Typer(no_args_is_help=True, help="Certificates of a site.")
    token = typer.Typer(no_args_is_help=True, help="Server token of a site's RKE2.")
    encryption = typer.Typer(no_args_is_help=True, help="Encryption of Secrets in a site's etcd.")
    for name, group in (("certificates", certificates), ("token", token), ("encryption", encryption)):
        app.add_typer(group, name=name)

    @certificates.command("scan")
    def scan(site: Site, as_json: Json = False) -> None:
        """List every certificate with the days it has left. Changes nothing."""
        run("scan-certificates", {"site": site}, as_json)

    @certificates.command("rotate")
    def rotate_certificates(
        site: Site,
        expiring_within_days: Within = 120,
        plan_hash: Hash = None,
        dry_run: DryRun = False,
        as_json: Json = False,
    ) -> None:
        """Give RKE2 new leaf certificates, node by node; the kubeconfig is fetched again."""
        parameters = {"expiring_within_days": expiring_within_days, "plan_hash": plan_hash, "dry_run": dry_run}
        run("rotate-certificates", {"site": site, **parameters}, as_json)

    @token.command("rotate")
    def rotate_token(
        site: Site, older_than_days: Age = 1, plan_hash: Hash = None, dry_run: DryRun = False, as_json: Json = False
    ) -> None:
        """Give RKE2 a new server token; the old one is archived for old snapshots."""
        parameters = {"older_than_days": older_than_days, "plan_hash": plan_hash, "dry_run": dry_run}
        run("rotate-token", {"site": site, **parameters}, as_json)

    @encryption.command("rotate")
    def rotate_encryption(
        site: Site, older_than_days: Age = 1, plan_hash: Hash = None, dry_run: DryRun = False, as_json: Json = False
    ) -> None:
        """Encrypt every Secret with a new key."""
        parameters = {"older_than_days": older_than_days, "plan_hash": plan_hash, "dry_run": dry_run}
        run("rotate-encryption-key", {"site": site, **parameters}, as_json)

    @encryption.command("status")
    def status(site: Site, as_json: Json = False) -> None:
        """Show stage, hashes and key of every server. Changes nothing."""
        run("encryption-status", {"site": site}, as_json)
