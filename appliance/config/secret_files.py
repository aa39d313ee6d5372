"""Which files of secrets a configuration names: one table for those who read them and for those who look after them."""

from collections.abc import Iterator

from appliance.config.model import Config


def secret_files(config: Config) -> dict[str, str]:
    """The path of each by its key, as messages name it. Certificates are no secrets, and not among them."""
    return {key: path for key, path in _named(config) if path is not None}


def _named(config: Config) -> Iterator[tuple[str, str | None]]:
    yield from _of_the_engine(config)
    if config.replication is not None:
        yield "replication.secret_file", config.replication.secret_file
        yield "replication.tls_key_file", config.replication.tls_key_file
    for index, app in enumerate(config.fanout.api_keys if config.fanout else ()):
        yield f"fanout.api_keys[{index}].key_file", app.key_file
    if config.admin is not None:
        yield "admin.token_file", config.admin.token_file


def _of_the_engine(config: Config) -> Iterator[tuple[str, str]]:
    engine = config.engine
    if engine is None:
        return
    if engine.l2 is not None:  # without an execution client nothing listens for op-node
        yield "engine.jwt_secret_file", engine.jwt_secret_file
        yield "engine.l2.jwt_secret_file", engine.l2.jwt_secret_file
    if engine.builder_listen is not None:
        yield "engine.builder_listen.jwt_secret_file", engine.builder_listen.jwt_secret_file
    for index, builder in enumerate(engine.builders):
        yield f"engine.builders[{index}].jwt_secret_file", builder.jwt_secret_file
