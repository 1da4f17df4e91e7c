"""Alembic runs this; the connection, with its transaction begun, comes from `db.upgrade`."""

from __future__ import annotations

from alembic import context

from cloud_inspect.db.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=False,  # the caller has begun the one transaction
)
context.run_migrations()
