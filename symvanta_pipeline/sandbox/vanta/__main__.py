"""The command line of the stand-in for Vanta: ``python -m symvanta_pipeline.sandbox.vanta``.

Belongs here: flags and the words for what is wrong with them. Does not belong here: anything that answers a request.
"""

import click
from pydantic import ValidationError

from symvanta_pipeline.sandbox.server import serve
from symvanta_pipeline.sandbox.vanta.app import build_app
from symvanta_pipeline.sandbox.vanta.config import VantaConfig

_DEFAULT = VantaConfig()


@click.command()
@click.option("--client-id", envvar="VANTA_CLIENT_ID", default=_DEFAULT.client_id, show_envvar=True)
@click.option(
    "--client-secret",
    envvar="VANTA_CLIENT_SECRET",
    default=_DEFAULT.client_secret.get_secret_value(),
    show_envvar=True,
    help="Better given by the variable: a command line can be read by everybody.",
)
@click.option("--resource-id", envvar="VANTA_RESOURCE_ID", default=_DEFAULT.resource_id, show_envvar=True)
@click.option("--application-name", default=_DEFAULT.application_name, show_default=True)
@click.option("--installation-url", default=_DEFAULT.installation_url, show_default=True)
@click.option("--host", default=_DEFAULT.host, show_default=True, help="Loopback only.")
@click.option("--port", type=int, default=_DEFAULT.port, show_default=True, help="0 takes any free one.")
@click.option("--token-requests-per-minute", type=int, default=_DEFAULT.token_requests_per_minute, show_default=True)
@click.option(
    "--resource-requests-per-minute", type=int, default=_DEFAULT.resource_requests_per_minute, show_default=True
)
@click.option("--retry-after/--no-retry-after", default=_DEFAULT.retry_after, help="Whether a 429 carries it.")
@click.option("--expires-in", type=int, default=_DEFAULT.expires_in, show_default=True, help="Seconds.")
@click.option("--refresh-grace-seconds", type=float, default=_DEFAULT.refresh_grace_seconds, show_default=True)
@click.option("--secret-marker", default=_DEFAULT.secret_marker, help="Stands in every code and token.")
@click.option("--with-parent", is_flag=True, help="End when standard input closes.")
def main(*, with_parent: bool, **settings: object) -> None:
    """Serve a stand-in for Vanta on loopback. Prints its address once it listens."""
    try:
        config = VantaConfig.model_validate(settings)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise click.UsageError(f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg']}") from None
    try:
        serve(build_app(config), host=config.host, port=config.port, with_parent=with_parent)
    except OSError as error:
        raise click.ClickException(
            f"cannot listen on {config.host}:{config.port} ({error.strerror}): choose another --port"
        ) from None


if __name__ == "__main__":
    main()
