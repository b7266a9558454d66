"""The command line of the stand-in for Sym's login: ``python -m symvanta_pipeline.sandbox.login``.

Belongs here: reading the settings and the words for what is wrong with them. Does not belong here: anything that
answers a request.
"""

import os

import click
from pydantic import ValidationError

from symvanta_pipeline.sandbox.login.app import build_app
from symvanta_pipeline.sandbox.login.config import CONFIG_VARIABLE, HOST, LoginConfig
from symvanta_pipeline.sandbox.server import serve


@click.command()
@click.option("--with-parent", is_flag=True, help="End when standard input closes.")
def main(*, with_parent: bool) -> None:
    """Serve a stand-in for Sym's login on loopback. Prints its address, which is the issuer, once it listens.

    SANDBOX_LOGIN_CONFIG holds its settings as JSON; without it, it serves the defaults.
    """
    try:
        config = LoginConfig.model_validate_json(os.environ.get(CONFIG_VARIABLE, "{}"))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise click.UsageError(f"{CONFIG_VARIABLE}: {where}: {first['msg']}") from None
    try:
        serve(build_app(config), host=HOST, port=config.port, with_parent=with_parent)
    except OSError as error:
        raise click.ClickException(
            f"cannot listen on {HOST}:{config.port} ({error.strerror}): choose another port"
        ) from None


if __name__ == "__main__":
    main()
